"""Where the rewards of a run come from: reward models, a grader, or a function of one's own."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from preftune.datasets import read_prompts
from preftune.errors import SettingsError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.scorer import Scorer
from preftune.graders.specs import read_grader
from preftune.inference.combine import CombineSettings, read_combination
from preftune.inference.reward_scorer import load_scorer
from preftune.models.heads import is_reward_model
from preftune.responses.http_client import HttpChatClient
from preftune.responses.remote import HttpSettings
from preftune.training.policy_settings import OnlineSettings, PpoSettings, RftSettings
from preftune.training.shared_rewards import SharedRewards, share_base
from preftune.types import Prompt

Settings = RftSettings | PpoSettings | OnlineSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The prompts of a run, and who scores the responses to them."""

    prompts: Sequence[Prompt]
    watched: Sequence[Prompt]  # those that looks draw from
    scorer: Scorer
    audit: Scorer | None


@contextmanager
def asked_and_scored(s: Settings, scorer: Scorer | None, audit: Scorer | None) -> Iterator[Asked]:
    """Yield the prompts and scorers of a run; graders are open inside the block.

    Where a grader scores, the files of prompts are RFT rows: messages, and what a right answer is.

    Args:
        s: names the files.
        scorer: used instead of the settings' reward models or grader.
        audit: used instead of the settings'.

    Raises:
        SettingsError: no scorer is named, or two.
        PreftuneError: a file or folder that cannot be used.
    """
    looks = s.watch.watch_data or s.data
    with ExitStack() as opened:
        if scorer is None:
            scorer = _of_settings(s, looks, opened)
        if audit is None and s.watch.audit is not None:
            source = s.watch.audit
            scores = is_reward_model(source)
            audit = load_scorer([source]) if scores else _grader(source, [looks], s, opened)
        yield Asked(
            prompts=prompts_in(s.data, scorer),
            watched=prompts_in(looks, scorer, audit),
            scorer=scorer,
            audit=audit,
        )


def _of_settings(s: Settings, looks: Path, opened: ExitStack) -> Scorer:
    r = s.rewarding
    if bool(r.reward) == (r.grader is not None):
        what = "both are" if r.reward else "neither is"
        raise SettingsError(
            f"reward and grader: {what} given. Give one: --reward FOLDER or --grader FILE."
        )
    if r.grader is not None:
        return _grader(r.grader, list(dict.fromkeys([s.data, looks])), s, opened)
    how = CombineSettings()
    if r.combine is not None:
        how = read_combination(r.combine)
    if s.lora.lora_rank and share_base(r.reward, s.model):
        return SharedRewards(folders=r.reward, how=how)
    return load_scorer(r.reward, how)


def _grader(source: Path, rows: Sequence[Path], s: Settings, opened: ExitStack) -> GraderScorer:
    r = s.rewarding
    http = HttpSettings(
        url=r.grader_url,
        allow_urls=(r.grader_url,) if r.grader_url else (),
        key_env=r.grader_key_env,
    )
    client = (lambda model: HttpChatClient(http, model)) if r.grader_url else None
    runner = opened.enter_context(GraderRunner(read_grader(source), client_of=client))
    found = [row for path in rows for row in read_rft_rows(path)]
    return GraderScorer(runner, items_of(found))


def prompts_in(path: Path, *scorers: Scorer | None) -> Sequence[Prompt]:
    """Return the prompts of a file; where a grader scores, it holds RFT rows."""
    if not any(isinstance(scorer, GraderScorer) for scorer in scorers):
        return read_prompts(path)
    return list({row.prompt.id: row.prompt for row in read_rft_rows(path)}.values())
