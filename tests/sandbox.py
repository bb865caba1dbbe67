"""A machine like Kaggle's: /kaggle/input read-only, /kaggle/working, no network, two CPUs, and an image without birdkit.

Run as a program inside new namespaces (`unshare -mn`) it builds that machine around itself:

    python sandbox.py ROOT INPUT WORKING COMMAND...
"""
import os, shutil, socket, struct, subprocess, sys
from fcntl import ioctl
from importlib.metadata import distribution
from pathlib import Path

# What 06_infer may find on Kaggle, and what it may not
IMAGE = ("numpy", "pandas", "scipy", "soundfile", "soxr", "tqdm", "matplotlib", "pyyaml", "papermill", "ipykernel")
LACKS = ("birdkit", "openvino", "openvino_telemetry", "miniaudio", "onnxruntime", "torch", "timm", "nbdev", "fastcore")
NAMESPACES = (["unshare", "-mn"], ["unshare", "-Urmn"])   # As root, or as anybody where the kernel lets them


def _closure(names):
    "Distributions with all they require here, by name."
    from packaging.requirements import Requirement
    found, todo = {}, list(names)
    while todo:
        name = todo.pop()
        if name in found: continue
        found[name] = distribution(name)
        needs = map(Requirement, found[name].requires or [])
        todo += [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def image_venv(folder):
    "A fresh virtual environment with pip, and links to the packages of the image and to nothing else; its Python."
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(Path(folder).glob("lib/python*/site-packages"))
    for dist in _closure(IMAGE).values():
        for top in {p.parts[0] for p in dist.files if p.parts[0] != ".."} - {"__pycache__"}:
            if not (site / top).exists(): (site / top).symlink_to(dist.locate_file(top))
    return Path(folder) / "bin/python"


def command_in_sandbox(root, inputs, working, command, namespaces=NAMESPACES[0]):
    "The command line that runs `command` with these folders as /kaggle/input and /kaggle/working."
    return list(map(str, [*namespaces, sys.executable, __file__, root, inputs, working, *command]))


def usable_namespaces(folder):
    "Which of NAMESPACES the kernel allows, and its reason where there is none."
    (folder / "in").mkdir(parents=True); (folder / "out").mkdir()
    said = "unshare is not installed"
    for namespaces in NAMESPACES if shutil.which("unshare") else ():
        command = command_in_sandbox(folder / "root", folder / "in", folder / "out", ["true"], namespaces)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0: return namespaces, ""
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return None, said


def _mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _build_root(root, inputs, working):
    "This machine's folders under another root, with /kaggle added."
    _mount("--make-rprivate", "/")
    root.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "none", root)
    for top in Path("/").iterdir():
        if top.is_symlink(): (root / top.name).symlink_to(os.readlink(top))
        elif top.is_dir() and top.name != "kaggle":
            (root / top.name).mkdir()
            _mount("--rbind", top, root / top.name)
    for source, name in ((inputs, "input"), (working, "working")):
        (root / "kaggle" / name).mkdir(parents=True)
        _mount("--bind", source, root / "kaggle" / name)
    _mount("-o", "remount,bind,ro", root / "kaggle/input")


def _loopback_up():
    "Jupyter talks to its kernel on 127.0.0.1, which is down in a new network namespace."
    set_flags, up, running = 0x8914, 0x1, 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: ioctl(s, set_flags, struct.pack("16sh", b"lo", up | running))


def main(root, inputs, working, *command):
    "Become the machine, then run the command on two CPUs."
    _build_root(Path(root), inputs, working)
    _loopback_up()
    os.chroot(root)
    os.chdir("/kaggle/working")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    os.execvp(command[0], command)


if __name__ == "__main__": main(*sys.argv[1:])
