"""A real server whose jobs are done by `honest_worker`: `python -m … FOLDER PORT SETTINGS`."""

import json
import sys
from pathlib import Path
from typing import Any

from preftune.serving.base_models import read_base_models
from preftune.serving.serve import ServeSettings, serve_all
from preftune.serving.settings import ServerSettings
from preftune.settings import build
from preftune.store.database import Database


def main(folder: Path, port: int, flags: dict[str, Any]) -> None:
    """Serve the store in a folder until a signal comes."""
    with Database(folder / "preftune.db") as database:
        serve_all(
            database,
            ServerSettings(port=port, access_log=folder / "access.log"),
            options=build(ServeSettings, flags),
            bases=read_base_models([f"tiny={folder / 'tiny'}"]),
            ready=lambda _: None,
            worker="tests.api.honest_worker",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
