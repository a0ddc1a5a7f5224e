"""Models in memory: one copy of each base, adapters on top; the longest unused leave first."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from preftune.engine.checkpoint import MANIFEST, verify
from preftune.errors import ModelError
from preftune.files import sha256_of
from preftune.hosting.lora import Adapter, NotPlainError, load_plain_adapter
from preftune.hosting.settings import GIB, HostingSettings
from preftune.hosting.stream import Stream, stream_of
from preftune.hosting.telling import Words
from preftune.hosting.token_names import TokenNames
from preftune.inference.reward_scorer import RewardScorer, load_scorer
from preftune.models.chat import Chat, load_chat
from preftune.models.load import Dtype, adapter_base, load_policy, max_length
from preftune.models.plain import Follows, PlainText, control_tokens
from preftune.models.templates import literal_text


@dataclass(kw_only=True, eq=False, slots=True)
class Base:
    """A whole model in memory.

    Attributes:
        folder: where it was loaded from.
        digest: of the folder's files then.
        model: the model.
        stream: the way that many requests share; None: each is answered alone.
        why_alone: why there is none.
        adapters: loaded onto it, the longest unused first.
    """

    folder: Path
    digest: str
    model: Any
    stream: Stream | None
    why_alone: str
    adapters: "OrderedDict[Path, Adapter]" = field(default_factory=OrderedDict)

    @property
    def bytes(self) -> int:
        """Memory of its weights and adapters, shared weights once."""
        weights: list[Tensor] = list(self.model.parameters())
        held = {weight.data_ptr(): weight.nbytes for weight in weights}
        return sum(held.values()) + sum(adapter.bytes for adapter in self.adapters.values())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Served:
    """What answers a request: a base, an adapter or none, and the folder's own chat."""

    base: Base
    adapter: Adapter | None
    chat: Chat
    words: Words
    names: TokenNames
    plain: PlainText
    fingerprint: str

    @property
    def parts(self) -> "set[Part]":
        """What must be in memory for it."""
        return {self.base} if self.adapter is None else {self.base, self.adapter}

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text as it is, behind the token that opens every text, if any.

        Raises:
            ModelError: the tokenizer makes control tokens out of plain text.
        """
        first = self.chat.tokenizer.bos_token_id
        opened = self.chat.tokenizer("")["input_ids"][:1] == [first]
        follows: Follows = "control" if opened else "start"
        return (*([first] if opened else []), *self.plain.encode(text, follows).ids)

    def text_of(self, text: str | None, ids: Sequence[int]) -> str:
        """Return a prompt as text: as it was given, or what its tokens say."""
        return str(self.chat.tokenizer.decode(list(ids))) if text is None else text

    @property
    def positions(self) -> int | None:
        """Most tokens of prompt and reply; None: no limit is known."""
        limits = (self.chat.max_length, max_length(self.base.model.config.to_dict()))
        return min((limit for limit in limits if limit is not None), default=None)


Part = Base | Adapter | Path  # of what is in memory; the folder of a reward model


class Library:
    """Loads models when they are first asked for."""

    def __init__(self, settings: HostingSettings, in_use: Callable[[], set[Part]]) -> None:
        """Take the limits, and what tells which parts may not leave now."""
        self.most_bytes = int(settings.memory_gib * GIB)
        self.dtype: Dtype = settings.dtype
        self._in_use = in_use
        self._bases: OrderedDict[Path, Base] = OrderedDict()  # the longest unused first
        self._served: dict[tuple[Path, str], Served] = {}
        self._scorers: OrderedDict[Path, RewardScorer] = OrderedDict()

    def serve(self, model: str, *, base: str = "", manifest_hash: str = "") -> Served:
        """Return what answers for a model folder or an adapter folder.

        Args:
            model: the folder.
            base: of an adapter folder, where its base is; "": where its config says.
            manifest_hash: SHA-256 that the folder's manifest must have; "": any.

        Raises:
            ModelError: it cannot be loaded, or is not what was published.
        """
        folder = Path(model).resolve()
        known = self._served.get((folder, manifest_hash))
        if known is None:
            _check_published(folder, manifest_hash)
            known = self._load(folder, base)
            self._served[folder, manifest_hash] = known
        self._bases.move_to_end(known.base.folder)
        if known.adapter is not None:
            known.base.adapters.move_to_end(folder)
        return known

    def scorer(self, folder: str, keep: Served | None = None) -> RewardScorer:
        """Return the reward model of a folder.

        Args:
            folder: where it lies.
            keep: stays in memory, though nobody uses it yet.

        Raises:
            ModelError: there is none, or it is not what its manifest says.
        """
        path = Path(folder).resolve()
        if path not in self._scorers:
            _check_published(path, "")
            coming = _size(path) + _size(adapter_base(path))
            self._make_room(coming, keep=keep.parts if keep else set())
            self._scorers[path] = load_scorer([path])
        self._scorers.move_to_end(path)
        return self._scorers[path]

    def unload(self, folders: Iterable[str]) -> None:
        """Forget what was loaded from these folders, unless it is in use."""
        busy = self._in_use()
        for folder in (Path(folder).resolve() for folder in folders):
            self._scorers.pop(folder, None)
            for base in self.bases:
                adapter = base.adapters.get(folder)
                if adapter is not None and adapter not in busy:
                    self._drop_adapter(base, adapter)
                if base.folder == folder and base not in busy:
                    self._drop(base)

    @property
    def bases(self) -> list[Base]:
        """All bases in memory."""
        return list(self._bases.values())

    @property
    def reward_models(self) -> list[Path]:
        """Folders of the reward models in memory."""
        return list(self._scorers)

    @property
    def bytes(self) -> int:
        """All weights in memory."""
        return sum(base.bytes for base in self._bases.values()) + sum(
            scorer.rewards.bytes for scorer in self._scorers.values()
        )

    def _load(self, folder: Path, base: str) -> Served:
        named = adapter_base(folder)
        adapter: Adapter | None = None
        if named is None:
            loaded = self._base(folder)
        else:
            loaded = self._base(Path(base or named).resolve())
            try:
                adapter = self._adapter(loaded, folder)
            except NotPlainError as error:
                loaded = self._base(folder, str(error))
        chat = load_chat(folder)
        return Served(
            base=loaded,
            adapter=adapter,
            chat=chat,
            words=Words.of(chat),
            names=TokenNames(chat),
            plain=PlainText(
                chat.tokenizer, control_tokens(chat.tokenizer, literal_text(chat.template))
            ),
            fingerprint=f"fp_{_digest(folder)}",
        )

    def _base(self, folder: Path, whole: str = "") -> Base:
        """Return a base; `whole` says why a folder of an adapter is loaded with its own base."""
        digest, held = _digest(folder), self._bases.get(folder)
        if held is not None and held.digest == digest:
            self._bases.move_to_end(folder)
            return held
        if held is not None:  # published anew; who uses the old one ends with it
            self._drop(held)
        self._make_room(_size(folder) + (_size(adapter_base(folder)) if whole else 0))
        model = load_policy(folder, dtype=self.dtype).requires_grad_(False)
        stream, why = (None, whole) if whole else stream_of(model)
        base = Base(folder=folder, digest=digest, model=model, stream=stream, why_alone=why)
        self._bases[folder] = base
        return base

    def _adapter(self, base: Base, folder: Path) -> Adapter:
        if base.stream is None:
            raise NotPlainError(f"{base.folder}: {base.why_alone}")
        digest, held = _digest(folder), base.adapters.get(folder)
        if held is not None and held.digest == digest:
            return held
        if held is not None:
            self._drop_adapter(base, held)
        self._make_room(_size(folder), keep={base})
        base.adapters[folder] = load_plain_adapter(base.model, folder, digest)
        return base.adapters[folder]

    def _make_room(self, coming: int, keep: set[Part] | None = None) -> None:
        """Let what is idle leave until so many more bytes fit: adapters, reward models, bases."""
        while self.bytes + coming > self.most_bytes:
            busy = self._in_use() | (keep or set())
            idle = (base for base in self._bases.values() if base not in busy)
            adapters = (
                (base, adapter)
                for base in self._bases.values()
                for adapter in base.adapters.values()
                if adapter not in busy
            )
            scorers = (folder for folder in self._scorers if folder not in busy)
            if (found := next(adapters, None)) is not None:
                self._drop_adapter(*found)
            elif (scorer := next(scorers, None)) is not None:
                del self._scorers[scorer]
            elif (base := next(idle, None)) is not None:
                self._drop(base)
            else:
                return  # all are in use: more is taken than was allowed

    def _drop(self, base: Base) -> None:
        del self._bases[base.folder]
        self._forget(lambda served: served.base is base)

    def _drop_adapter(self, base: Base, adapter: Adapter) -> None:
        del base.adapters[adapter.folder]
        self._forget(lambda served: served.adapter is adapter)

    def _forget(self, which: Callable[[Served], bool]) -> None:
        self._served = {key: one for key, one in self._served.items() if not which(one)}


def _check_published(folder: Path, manifest_hash: str) -> None:
    """Refuse a folder that is not what was published; one without a manifest is taken as it is."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if manifest_hash:
            raise ModelError(f"{folder}: its {MANIFEST} is gone. Publish the model again.")
        return
    if manifest_hash and sha256_of(manifest) != manifest_hash:
        raise ModelError(f"{folder}: is not what was published. Restore it, or publish it anew.")
    if (problem := verify(folder)) is not None:
        raise ModelError(f"{folder}: {problem}. Restore it, or publish it anew.")


def _size(folder: Path | str | None) -> int:
    """Return the bytes of the weights in a folder."""
    if folder is None:
        return 0
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _digest(folder: Path) -> str:
    """Return ten digits that change with a folder's files: of its manifest, else of their dates."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        return sha256_of(manifest)[:10]
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    said = "|".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(said.encode()).hexdigest()[:10]
