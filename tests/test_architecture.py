"""The rules that hold the repository together, read from its files and its imports."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Python = Callable[..., str]
FLOORS = ("kernels", "hooks", "circuits", "interp")
LINKS = ("circuits", "hooks", "kernels")

PUBLIC = [
    "Ablate",
    "AblationResult",
    "AttributionResult",
    "Blend",
    "Calibrate",
    "Circuit",
    "Generation",
    "HeadId",
    "HeadScores",
    "HookedModel",
    "InterpError",
    "Knockout",
    "Passport",
    "Patch",
    "PatchResult",
    "PathResult",
    "Redistribute",
    "SafetyReport",
    "Sampling",
    "Scale",
    "SinkEffects",
    "SinkReport",
    "Steer",
    "Swap",
    "SwapResult",
    "TokenMaps",
    "__version__",
    "ablate",
    "attention_by_distance",
    "attention_transfer",
    "circuit",
    "circuits",
    "depth_profile",
    "dla",
    "grow_group",
    "head_matrix",
    "hooks",
    "joint_embedding",
    "joint_embeddings",
    "kernels",
    "load",
    "open_result",
    "passport",
    "patch",
    "paths",
    "pattern_classes",
    "report",
    "safety",
    "score",
    "sinks",
    "swap",
    "task",
    "token_maps",
]

HOMES = {
    "transformers": ("hooks/", "interp/zoo/"),
    "transformer_lens": ("hooks/",),
    "huggingface_hub": ("hooks/", "interp/loading.py"),
    "plotly": ("interp/report/",),
    "triton": ("kernels/",),
    "typer": ("interp/cli/",),
    "ray": ("interp/sweeps/executors/",),
    "rich": ("interp/cli/",),
    "jinja2": ("interp/report/",),
}
"""The only places that may import a package; importing it for type checkers alone is free."""

LAZY = ("torch", "numpy", "pandas", "plotly", "transformers", "transformer_lens", "sklearn", "jinja2", "rich", "typer")

NOT_RAISED_YET: dict[str, str] = {}
"""Codes that are promised but that no line raises; the reason is what would raise them."""


def sources(*floors: str) -> Iterator[Path]:
    """Python files of real folders, never through the links."""
    for floor in floors:
        for folder, folders, names in os.walk(ROOT / floor):
            folders[:] = [name for name in folders if name != "__pycache__" and not (Path(folder) / name).is_symlink()]
            yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def for_type_checkers(tree: ast.Module) -> set[ast.stmt]:
    """Statements under `if TYPE_CHECKING`, which never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {
        inner
        for block in blocks
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        for inner in ast.walk(statement)
        if isinstance(inner, ast.stmt)
    }


def imports(path: Path, *, run_only: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import; a relative import has the name of its dots."""
    tree = parsed(path)
    skipped = for_type_checkers(tree) if run_only else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "interp":
                yield from ((f"interp.{name.name}", node.lineno) for name in node.names)
            else:
                yield module, node.lineno


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def floor_of(module: str) -> str | None:
    """Floor that an import belongs to; None for other packages."""
    head, _, rest = module.partition(".")
    if head != "interp":
        return None
    first = rest.partition(".")[0]
    return first if first in FLOORS else "interp"


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_lead_to_the_folders(name: str) -> None:
    link = ROOT / "interp" / name
    assert link.is_symlink(), f"interp/{name} is no link: clone with symlinks enabled"
    assert os.readlink(link) == f"../{name}"
    assert not (ROOT / name).is_symlink()
    assert link.resolve() == ROOT / name


def test_kernels_is_no_package_of_its_own() -> None:
    """With an `__init__.py` it would pass for the distribution `kernels` that transformers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("floor", FLOORS)
def test_floors_import_only_what_is_below(floor: str) -> None:
    rank = FLOORS.index(floor)
    wrong = [
        f"{place(path, line)} imports {module}"
        for path in sources(floor)
        for module, line in imports(path)
        if (found := floor_of(module)) is not None and FLOORS.index(found) > rank
    ]
    assert not wrong


def test_packages_are_imported_only_at_home() -> None:
    wrong = [
        f"{place(path, line)} imports {module}"
        for path in sources(*FLOORS)
        for module, line in imports(path, run_only=True)
        for package, homes in HOMES.items()
        if module.partition(".")[0] == package and not str(path.relative_to(ROOT)).startswith(homes)
    ]
    assert not wrong


def test_imports_are_absolute_and_never_bare() -> None:
    wrong = [
        f"{place(path, line)} imports {module}"
        for path in sources(*FLOORS, "tests")
        for module, line in imports(path)
        if module.startswith(".") or module.partition(".")[0] in LINKS
    ]
    assert not wrong


def test_public_names() -> None:
    import interp

    assert sorted(interp.__all__) == interp.__all__ == PUBLIC
    assert dir(interp) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist(name: str) -> None:
    import interp

    assert getattr(interp, name) is not None


def test_unknown_public_name_is_answered_with_the_nearest() -> None:
    import interp

    with pytest.raises(AttributeError, match="did you mean 'ablate'"):
        interp.ablat  # noqa: B018 - the access is the test
    assert not hasattr(interp, "__no_such_protocol__")


def test_report_is_callable_however_it_was_imported(python: Python) -> None:
    python("import interp.report.page, interp; assert callable(interp.report) and interp.report.page.report")
    python("import interp; interp.report; import interp.report.page; assert callable(interp.report)")


def test_importing_interp_loads_nothing_heavy(python: Python) -> None:
    code = f"import sys, interp; print(*[name for name in {LAZY!r} if name in sys.modules])"
    assert python(code) == ""


def test_the_command_line_loads_nothing_heavy(python: Python) -> None:
    heavy = tuple(name for name in LAZY if name not in ("typer", "rich"))
    code = f"import sys, interp.cli.main; print(*[name for name in {heavy!r} if name in sys.modules])"
    assert python(code) == ""


def test_transformer_lens_is_loaded_only_when_used(python: Python) -> None:
    code = (
        "import sys, interp.hooks.model, interp.loading, interp.ablation.run; print('transformer_lens' in sys.modules)"
    )
    assert python(code) == "False"


def test_codes_and_raised_codes_agree() -> None:
    from interp.kernels.errors import CODES

    literals: dict[str, str] = {}
    for path in sources(*FLOORS):
        if path == ROOT / "kernels" / "errors.py":
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"E\d{3}", node.value):
                literals.setdefault(node.value, place(path, node.lineno))
    unknown = {code: where for code, where in literals.items() if code not in CODES}
    assert not unknown
    assert set(CODES) - set(literals) == set(NOT_RAISED_YET), "bring NOT_RAISED_YET up to date"


@pytest.mark.parametrize(
    ("script", "name"), [("errors_page", "ERRORS.md"), ("attention_page", "ATTENTION.md"), ("scores_page", "SCORES.md")]
)
def test_pages_made_from_the_code_are_up_to_date(script: str, name: str) -> None:
    page = runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))["page"]()
    assert (ROOT / name).read_text("utf-8") == page, f"python scripts/{script}.py > {name}"


def test_first_digit_of_a_code_is_an_exit_code() -> None:
    from interp.kernels.errors import CODES, EXIT_CODES

    assert {int(code[1]) for code in CODES} <= set(EXIT_CODES)


def test_no_file_names_a_place_on_one_machine() -> None:
    """Absolute paths of a developer's machine, and hosts of package registries."""
    wrong = re.compile(r"/(?:home|Users|root|work|opt|mnt)/\w|/tmp/\w+/bin|\b(?:pypi|pythonhosted)\.org\b|/simple/")
    suffixes = {".py", ".toml", ".txt", ".md", ".sh", ".json", ".jinja", ""}
    skipped = {"__pycache__", "runs", "build", "dist"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in skipped and (name[0] != "." or name == ".ci")]
        for path in (Path(folder) / name for name in names):
            if path.suffix in suffixes and path != Path(__file__) and not path.is_symlink():
                text = path.read_text("utf-8")
                found += [
                    f"{place(path, text[: hit.start()].count(chr(10)) + 1)}: {hit[0]}" for hit in wrong.finditer(text)
                ]
    assert not found


def test_a_checkout_without_links_says_so(python: Python, tmp_path: Path) -> None:
    """Git without symbolic links writes text files in their place."""
    shutil.copytree(
        ROOT / "interp", tmp_path / "interp", symlinks=True, ignore=shutil.ignore_patterns("zoo", "__pycache__")
    )
    for name in LINKS:
        link = tmp_path / "interp" / name
        link.unlink()
        link.write_text(f"../{name}")
    words = python("import interp.kernels.errors", path=(tmp_path,), fails=True)
    assert "interp/circuits is not a folder" in words and "core.symlinks" in words
