"On Kaggle 06_infer starts in seconds from a wheel and a folder: it must not need what only training needs."
import ast, json, re, subprocess, sys

from conftest import ROOT

HEAVY = ("torch", "timm", "torchvision", "librosa", "audiomentations", "sklearn", "papermill", "nbdev", "fastcore", "silero_vad")


def test_infer_imports_nothing_heavy():
    cells = json.loads((ROOT / "nbs/06_infer.ipynb").read_text())["cells"]
    lines = [line for c in cells if c["cell_type"] == "code" for line in ast.parse("".join(c["source"])).body]
    imports = [ast.unparse(line) for line in lines if isinstance(line, (ast.Import, ast.ImportFrom))]
    assert imports
    code = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n" + "\n".join(imports)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def shelf_of_modules():
    "Shelf of each module, by the first digit of its notebook: ground, data, model, learn, serve."
    source = lambda path: "".join("".join(c["source"]) + "\n" for c in json.loads(path.read_text())["cells"])
    exports = {p: re.search(r"#\| default_exp (\w+)", source(p)) for p in (ROOT / "nbs/lib").glob("*.ipynb")}      # a page exports nothing
    shelves = {found[1]: int(p.name[0]) for p, found in exports.items() if found}
    return shelves | {"mel": 0, "raw": 0}                  # numpy's half of the frontends, which inference needs too


def test_shelves_import_downward():
    rank = shelf_of_modules()
    for path in sorted((ROOT / "birdkit").glob("[a-z]*.py")):
        froms = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]       # those inside functions too
        used = [name for n in froms for name in ([n.module] if n.module else [alias.name for alias in n.names]) if name != "__version__"]
        wrong = [u for u in used if rank[u] > rank[path.stem]]
        assert not wrong, f"{path.name} imports {wrong} from a higher shelf"
