"""Random identities to paint: landmarks and everything else that tells one person and one photograph from another.

All is drawn from wide distributions on purpose, wider than official portraits: what the motion model has
seen is what it can do. Left and right are the picture's.
"""

from dataclasses import dataclass

import numpy as np

from engine.portrait.landmarks import CHIN_TO_CENTRE, EYE_X, EYE_Y, LID_RISE
from training.data.synthetic.painting.canvas import Floats, linear

MARGIN_A, MARGIN_B = 0.0025, 0.0044  # how far ea and eb reach beyond the lids, so that a lid covers the lashes

# Skin from very light to very dark (Fitzpatrick I to VI), as seen in full light.
SKINS = ((243, 212, 192), (238, 198, 170), (228, 183, 148), (200, 148, 108), (150, 101, 68), (98, 64, 44), (66, 43, 32))
HAIRS = {
    "black": (22, 18, 18), "dark brown": (48, 33, 26), "brown": (88, 58, 38), "chestnut": (112, 62, 36),
    "red": (150, 74, 38), "dark blond": (146, 112, 70), "blond": (196, 160, 104), "grey": (150, 148, 146),
    "white": (214, 212, 208),
}  # fmt: skip
IRISES = ((70, 44, 26), (92, 60, 34), (112, 92, 48), (86, 108, 84), (92, 122, 150), (112, 130, 142))
STYLES = ("bald", "ring", "cropped", "parted", "swept", "fringe", "bob", "long", "curly", "afro", "bun")
HATS = ("beanie", "cap", "brim", "scarf")
BACKDROPS = ("plain", "gradient", "blurred", "window", "stripes")


@dataclass(frozen=True, slots=True)
class Look:
    """marks: landmarks, the fields of landmarks.json. turn: how far the nose has turned to the right, units.

    tilt: of the body against the head, radians. age: 0..1. skin, hair, iris, dress, ground: linear colours. fine: how
    delicate the features are, 0..1. light: unit vector towards the main light (z to the viewer).
    """

    marks: dict[str, float]
    turn: float
    tilt: float
    age: float
    fine: float
    skin: Floats
    pale: float
    hair: Floats
    iris: Floats
    style: str
    volume: float
    hairline: float
    beard: str
    hat: str
    glasses: str
    light: Floats
    fill: float
    backdrop: str
    ground: Floats
    dress: Floats
    collar: bool


def draw_marks(rng: np.random.Generator) -> dict[str, float]:
    """Landmarks alone: closed mouths, parted lips, toothy curved smiles and open mouths on faces of any shape."""

    def near(mean: float, spread: float, low: float, high: float) -> float:
        return float(np.clip(rng.normal(mean, spread), low, high))

    mouth = rng.choice(("closed", "parted", "smile", "open"), p=(0.38, 0.10, 0.37, 0.15))
    my, mw, chin = near(0.355, 0.04, 0.26, 0.47), near(0.197, 0.018, 0.145, 0.25), near(0.302, 0.034, 0.2, 0.4)
    lt = near(0.047, 0.013, 0.018, 0.09)
    ut = float(np.clip(lt * rng.normal(0.58, 0.14), 0.008, 0.056))
    th, rise = 0.0, 0.5  # the corners rise by this share of the opening
    bend = near(-0.05, 0.11, -0.3, 0.2)  # of the closed line, in half widths
    if mouth == "parted":
        th = float(rng.uniform(0.01, 0.04))
    elif mouth == "smile":
        mw = min(mw * 1.07, 0.27)
        th = mw * float(rng.uniform(0.1, 0.5))
        bend, rise = -float(rng.uniform(0.05, 0.2)), float(rng.uniform(0.6, 1.0))
        lt, ut = lt * 0.9, ut * 0.85
    elif mouth == "open":
        mw *= 0.94
        th = min(mw * float(rng.uniform(0.25, 0.95)), 0.19)
        bend, rise = near(-0.02, 0.06, -0.15, 0.1), float(rng.uniform(0.35, 0.6))
    my = min(my + 0.55 * max(0.0, th - 0.04), 0.5)
    eye_y = EYE_Y - LID_RISE + near(0, 0.0035, -0.01, 0.01)
    eb = near(0.0295, 0.0055, 0.017, 0.045)
    marks = {
        "cx": near(0, 0.022, -0.07, 0.07), "rx": near(0.437, 0.024, 0.37, 0.52), "mx": near(0, 0.009, -0.03, 0.03),
        "my": my, "mw": mw, "curve": max(bend * mw - rise * th, -0.55 * mw), "mtilt": near(0, 0.005, -0.02, 0.02),
        "lt": lt, "ut": ut, "th": th,
        "chin": chin, "exl": -EYE_X + near(0, 0.004, -0.01, 0.01), "eyl": eye_y + near(0, 0.002, -0.005, 0.005),
        "exr": EYE_X + near(0, 0.004, -0.01, 0.01), "eyr": eye_y + near(0, 0.002, -0.005, 0.005),
        "ea": near(0.091, 0.005, 0.078, 0.106), "eb": eb, "bh": max(near(0.096, 0.015, 0.06, 0.135), eb + 0.028),
    }  # fmt: skip
    marks["cy"] = EYE_Y + CHIN_TO_CENTRE * (my + chin - EYE_Y)
    marks["ry"] = my + chin - marks["cy"]
    marks["smiling"] = float(mouth == "smile")
    return marks


def draw_look(rng: np.random.Generator) -> Look:
    """One person on one photograph. The landmarks are drawn first, so the same seed gives draw_marks the same ones."""
    marks = draw_marks(rng)
    tone = float(rng.uniform(0, len(SKINS) - 1))
    skin = _between(SKINS, tone) * np.exp(rng.normal(0, 0.03, 3)).astype(np.float32)
    age = float(rng.beta(1.3, 1.5))
    fine = float(rng.random())
    style = str(rng.choice(STYLES, p=(0.06, 0.05, 0.14, 0.15, 0.11, 0.11, 0.09, 0.12, 0.06, 0.05, 0.06)))
    if fine > 0.75 and style in ("bald", "ring"):
        style = "long"
    bearded = fine < 0.55 and rng.random() < 0.55
    beard = str(rng.choice(("stubble", "moustache", "goatee", "short", "full"))) if bearded else ""
    sideways = float(np.clip(rng.normal(0, 0.45), -1, 1))
    light = np.array([sideways, -rng.uniform(0.1, 0.85), rng.uniform(0.75, 1.3)], np.float32)
    marks["glasses"] = float(rng.random() < 0.2)
    return Look(
        marks=marks,
        turn=float(np.clip(-0.9 * marks["cx"] + rng.normal(0, 0.008), -0.06, 0.06)),
        tilt=float(np.clip(rng.normal(0, 0.08), -0.22, 0.22)),
        age=age,
        fine=fine,
        skin=skin,
        pale=1 - tone / (len(SKINS) - 1),
        hair=_hair(rng, tone, age),
        iris=linear(*IRISES[int(rng.integers(0, 2 if tone > 3 else len(IRISES)))]) * np.float32(rng.uniform(0.7, 1.3)),
        style=style,
        volume=float(rng.uniform(0.02, 0.09)) + {"afro": 0.16, "curly": 0.07, "long": 0.03}.get(style, 0.0),
        hairline=float(rng.uniform(0.36, 0.5)) + 0.06 * (age - 0.5),
        beard=beard,
        hat=str(rng.choice(HATS)) if rng.random() < 0.12 else "",
        glasses=str(rng.choice(("thin", "thick", "round", "rimless"))) if marks["glasses"] else "",
        light=light / np.float32(np.linalg.norm(light)),
        fill=float(rng.uniform(0.25, 0.7)),
        backdrop=str(rng.choice(BACKDROPS)),
        ground=_colour(rng, (0.15, 0.85), 0.5),
        dress=_colour(rng, (0.08, 0.9), 0.5),
        collar=bool(rng.random() < 0.5),
    )


def _between(colours: tuple[tuple[int, int, int], ...], place: float) -> Floats:
    low = min(int(place), len(colours) - 2)
    share = np.float32(place - low)
    return linear(*colours[low]) * (1 - share) + linear(*colours[low + 1]) * share


def _hair(rng: np.random.Generator, tone: float, age: float) -> Floats:
    """Dark hair goes with dark skin; grey comes with age; dyed hair now and then."""
    if rng.random() < max(0.0, age - 0.45):
        return linear(*HAIRS[str(rng.choice(("grey", "white")))]) * np.float32(rng.uniform(0.7, 1.1))
    names = list(HAIRS)[: 2 if tone > 4 else (4 if tone > 2.5 else 7)]
    return linear(*HAIRS[str(rng.choice(names))]) * np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.06, 3)).astype(
        np.float32
    )


def _colour(rng: np.random.Generator, lightness: tuple[float, float], colourful: float) -> Floats:
    """Any colour, seldom a loud one."""
    value = float(rng.uniform(*lightness))
    hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
    strength = colourful * rng.beta(1.2, 2.5)
    return np.asarray(np.clip(value * (1 + strength * np.cos(hue)), 0.02, 1) ** 2, np.float32)
