"""Rollouts drawn behind a URL, such as by vLLM: the newest adapter is sent there, each response
says which weights drew it, and responses of weights that are too old are refused.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from preftune.errors import DataError, ModelError, SettingsError
from preftune.files import atomic_folder, delete_folder, write_atomic
from preftune.inference.completion_wire import Completion, completion_request, read_completion
from preftune.inference.rollouts import Rollout
from preftune.inference.token_server import Question, TokenServer
from preftune.models.adapters import save_adapter
from preftune.responses.generator import GenerateSettings
from preftune.responses.remote import Failed, HttpSettings
from preftune.settings import checked

POLICY, VERSION = "policy-", "version-"  # names at the server, and of folders
RUN = "run"  # file with what makes the names of a run its own: servers outlive runs
ALREADY = "already"  # says a server that has the adapter since an attempt whose answer was cut


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlRolloutSettings:
    """How responses of a server are taken."""

    max_staleness: Annotated[
        int, Meta(ge=0, description="Most steps that the weights of a response may be behind.")
    ] = 0
    served_logprobs: Annotated[
        Literal["raw", "processed"],
        Meta(
            description="What the server's log-probs are: before temperature and filters, or not."
        ),
    ] = "raw"


class UrlRollouts:
    """Draws from a server (a `rollouts.RolloutSource`); counts what it refused as too old."""

    def __init__(
        self,
        http: HttpSettings,
        draw: GenerateSettings,
        settings: UrlRolloutSettings,
        *,
        folder: Path,
        end_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        """Take the server and how to draw; nothing is sent.

        Args:
            http: where the server is; with vLLM it runs with `--enable-lora` and
                `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`.
            draw: how to draw; its log-probs must be those of the draw, nothing filtered out.
            settings: how old a response may be, and which log-probs the server gives.
            folder: where adapters are written; the server must see it under the same path.
            end_ids: tokens that end a response.
            vocab_size: ids of the policy are below it.

        Raises:
            SettingsError: a URL that may not be asked, or a way to draw whose log-probs the server
                cannot give.
        """
        self.settings, self.drawing = checked(settings), draw
        _refuse_other_logprobs(draw, settings.served_logprobs)
        self.server = TokenServer(http)
        self.folder = folder.resolve()
        self.end_ids, self.vocab_size = tuple(end_ids), vocab_size
        self.refused = 0  # responses of weights too old, over all draws
        self._newest: int | None = None

    def publish(self, model: Any, *, version: int) -> None:
        """Write the adapter, have the server load it, and unload those that are too old.

        Raises:
            ModelError: the model has no adapter, or the server would not load it.
        """
        target = self.folder / f"{VERSION}{version}"
        if target.exists():  # of a run that was stopped and goes on
            self._unload(version)
        with atomic_folder(target) as temporary:
            save_adapter(model, temporary)
        self._load(version, target)
        self._newest = version
        self._drop(lambda other: not 0 <= version - other <= self.settings.max_staleness)

    def close(self) -> None:
        """Unload what is loaded; nothing is drawn any more."""
        self._newest = None
        self._drop(lambda _: True)

    def draw(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> list[Rollout]:
        """Return one response per prompt and seed, in the same order, each with its version.

        Raises:
            ModelError: nothing was published, or some could not be had, too old ones included.
        """
        if self._newest is None:
            raise ModelError(f"{self.server.name}: no weights were published. Publish them first.")
        newest = self._newest
        rows = zip(prompts, seeds, strict=True)
        asked = [self._question(newest, prompt, seed) for prompt, seed in rows]
        found = self.server.ask(asked)
        if failures := [got.reason for got in found if isinstance(got, Failed)]:
            raise ModelError(
                f"{self.server.name}: {len(failures)} of {len(found)} responses could not be had: "
                f"{failures[0]}. Look at the server; the same command goes on from the checkpoint."
            )
        return [got for got in found if isinstance(got, Rollout)]

    def _question(self, newest: int, prompt: tuple[int, ...], seed: int) -> Question[Rollout]:
        def read(body: bytes) -> Rollout:
            found = read_completion(
                body,
                prompt,
                max_new_tokens=self.drawing.max_new_tokens,
                end_ids=self.end_ids,
                vocab_size=self.vocab_size,
            )
            return self._stamped(found, prompt, newest)

        name = self._name(newest)
        body = completion_request(name, prompt, self.drawing, seed=seed, end_ids=self.end_ids)
        return Question(path="/completions", body=body, read=read)

    def _stamped(self, found: Completion, prompt: tuple[int, ...], newest: int) -> Rollout:
        """Return the rollout of a completion under the version of the weights that drew it.

        Raises:
            DataError: drawn by a model that was not published, or by weights that are too old.
        """
        number = found.model.removeprefix(self._name(""))
        if found.model == number or not (number.isascii() and number.isdigit()):
            raise DataError(f"drawn by {found.model!r}, which is no published policy")
        version = int(number)
        if version > newest:
            raise DataError(f"drawn by {found.model!r}, which is newer than {newest}")
        if newest - version > self.settings.max_staleness:
            self.refused += 1
            raise DataError(
                f"drawn by {found.model!r}, {newest - version} steps behind, where max_staleness "
                f"is {self.settings.max_staleness}"
            )
        return Rollout(
            prompt_ids=prompt,
            response_ids=found.ids,
            finished=found.finished,
            logprobs=found.logprobs,
            version=version,
        )

    def _load(self, version: int, folder: Path) -> None:
        name = self._name(version)
        body = {"lora_name": name, "lora_path": str(folder)}
        (got,) = self.server.ask([Question(path="/load_lora_adapter", body=body, read=bool)])
        if isinstance(got, Failed) and ALREADY not in got.reason:
            raise ModelError(
                f"{self.server.name}: would not load {name} from {folder}: {got.reason}. "
                "Start it with adapters that may be loaded while it runs, on the same files."
            )

    def _unload(self, version: int) -> None:
        """Have the server forget an adapter; one that it does not have is forgotten already."""
        body = {"lora_name": self._name(version)}
        self.server.ask([Question(path="/unload_lora_adapter", body=body, read=bool)])

    def _drop(self, is_over: Callable[[int], bool]) -> None:
        """Unload versions and delete their folders."""
        for found in list(self.folder.glob(f"{VERSION}*")):
            version = found.name.removeprefix(VERSION)
            if version.isdigit() and is_over(int(version)):
                self._unload(int(version))
                delete_folder(found)

    def _name(self, version: int | str) -> str:
        """Return the name of a version at the server, which no other run gives."""
        kept = self.folder / RUN
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, secrets.token_hex(4))
        return f"{POLICY}{kept.read_text(encoding='ascii')}-{version}"


def _refuse_other_logprobs(draw: GenerateSettings, served: str) -> None:
    """Raise `SettingsError` where the server's log-probs are not those that training needs."""
    if draw.stop:
        raise SettingsError("stop: texts end no rollout behind a URL. End tokens do; leave it out.")
    if draw.temperature == 0:
        raise SettingsError("temperature 0: a rollout is drawn. Use a temperature above 0.")
    if served == "raw" and draw.temperature != 1:
        raise SettingsError(
            f"temperature {draw.temperature}: raw log-probs are those of temperature 1. Use 1, or "
            "start the server with --logprobs-mode processed_logprobs and say "
            "served_logprobs: processed."
        )
    if served == "processed" and (draw.top_p < 1 or draw.top_k):
        raise SettingsError(
            "top_p, top_k: processed log-probs are those of the filtered draw. Leave them out."
        )
