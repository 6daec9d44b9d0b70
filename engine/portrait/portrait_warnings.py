"""Warnings about portraits: stable codes, and what each says to a person."""

WORDING = {
    "low_resolution": "The face is small in the picture: a closer one will look sharper.",
    "blurred": "The picture is blurred: a sharper one will look better.",
    "dark": "The face is dark: more light from the front will help.",
    "profile": "The face is turned aside: one that looks into the camera moves better.",
    "occluded": "Part of the face seems covered: the mouth or the eyes may move oddly.",
    "low_confidence": "The mouth or the eyes are hard to make out: the mouth moves less, and may move oddly.",
}
