"""What scripts/torch_free runs in the environment without torch: MODEL through every way in."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path


def command(*arguments: str) -> str:
    """Standard output of `rstinynet ARGUMENTS`; ends the check where it fails."""
    done = subprocess.run(
        ["rstinynet", *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        sys.exit(f"rstinynet {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def refused(*arguments: str) -> tuple[int, str]:
    """Exit code and message of a command that must fail."""
    done = subprocess.run(
        ["rstinynet", *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, " ".join(done.stderr.split())


def main(model: str) -> None:
    if importlib.util.find_spec("torch") is not None:
        sys.exit("this environment has torch, so it shows nothing")

    import rstinynet
    from rstinynet.data.synthetic import make_synthetic

    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        found = rstinynet.load(model).predict(scene)
        shown = command("predict", str(scene), "--model", model, "--out", "found", "--json")
    (record,) = json.loads(shown)["sources"]
    assert record["count"] == len(found) > 10, (record["count"], len(found))
    assert Path(record["files"]["gpkg"]).is_file()

    made = make_synthetic(Path("data"), images=3, size=320, seed=1)
    made.rename(made.with_name("val.json"))
    scores = json.loads(command("val", "--model", model, "--data", "data", "--json"))
    assert 0 <= scores["ap"] <= 1 or scores["ap"] == -1, scores["ap"]

    code, message = refused("predict", "x.tif", "--model", "rs-tinynet-lite", "--out", "no")
    assert code == 4, (code, message)
    assert "rs-tinynet[torch]" in message, message
    code, message = refused("export", "rs-tinynet-lite")
    assert code == 5, (code, message)
    assert "rs-tinynet[export]" in message, message
    assert "torch" not in sys.modules
    print(f"without torch: {len(found)} objects by load and predict, val ran ({model})")


if __name__ == "__main__":
    main(sys.argv[1])
