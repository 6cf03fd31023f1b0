"""Groups to look at, from the tables that TRL writes with `log_completions=True`."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd, isfinite
from pathlib import Path

from tqdm import tqdm

from ..groups import PLAIN
from ..methods.table import metric_name


# columns of TRL's table that are no reward
NO_REWARDS = ("step", "prompt", "completion", "kind", "advantage")
FILES_FOR_A_PATTERN = 20


@dataclass
class CompletionFile:
    """A table of completions: its path, the step it was logged at, and its rows."""

    path: Path
    step: int
    rows: int


@dataclass
class Response:
    """
    A candidate's response.

    Args:
        kind (`str`): kind of the candidate.
        text (`str`): the response.
        rewards (`dict[str, float | None]`): by reward function, `None` where it gave none.
        total (`float`, *optional*): weighted sum of the rewards; `None` without a reward or without known weights.
        mark (`str`): `"best"`, `"worst"` or nothing.
    """

    kind: str
    text: str
    rewards: dict[str, float | None]
    total: float | None = None
    mark: str = ""


@dataclass
class Group:
    """
    A query's responses at one step.

    Args:
        step (`int`): the step it was logged at.
        query (`str`): the plain query.
        responses (`list[Response]`): in the group's order.
        tied (`bool`, *optional*): whether no two rewards differ, so that it teaches nothing; `None` if nobody knows.
        pairs (`list[str]`): a sentence for each of PLE's pairs.
    """

    step: int
    query: str
    responses: list[Response]
    tied: bool | None = None
    pairs: list[str] = field(default_factory=list)


@dataclass
class Sample:
    """
    Groups of a run, and of how much they are taken.

    Args:
        groups (`list[Group]`): in the order of their steps.
        steps (`int`): logged steps of the run.
        rows (`int`): logged responses of the run, those of evaluations too.
    """

    groups: list[Group] = field(default_factory=list)
    steps: int = 0
    rows: int = 0

    @property
    def shown_steps(self) -> int:
        return len({group.step for group in self.groups})

    @property
    def shown_rows(self) -> int:
        return sum(len(group.responses) for group in self.groups)


def completion_files(folder: Path, notes: list[str]) -> list[CompletionFile]:
    """A run's tables in the order of their steps; those that are cut off are noted and left out."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    files, unreadable = [], []
    paths = sorted((folder / "completions").glob("completions_*.parquet"))
    for path in tqdm(paths, desc=f"tables of {folder}", unit="file", disable=None if len(paths) > 1000 else True):
        if number := re.fullmatch(r"completions_(\d+)\.parquet", path.name):
            try:
                files.append(CompletionFile(path, int(number[1]), pq.read_metadata(path).num_rows))
            except (OSError, ArrowException):  # the run may be writing it
                unreadable.append(path.name)
    if unreadable:
        listed = ", ".join(unreadable[:3]) + (", …" if len(unreadable) > 3 else "")
        notes.append(f"{len(unreadable)} completion table(s) cannot be read and were left out: {listed}.")
    return sorted(files, key=lambda file: file.step)


class Tables:
    """
    Reads the training groups of completion tables.

    Args:
        files (`list[CompletionFile]`): the run's tables; a few of them tell what its groups look like.
        logs (`list[dict]`): the run's log history, which names the reward functions and tells the thresholds.
        config (`dict`): the run's settings by dotted name, which tell the rewards' weights.
    """

    def __init__(self, files: list[CompletionFile], logs: list[dict], config: dict):
        self.config, self.unreadable = config, set()
        self.logged_rewards = {m[1] for log in logs for key in log if (m := re.fullmatch(r"rewards/(.+)/mean", key))}
        self.thresholds = {
            log["step"]: value for log in logs for key, value in log.items() if metric_name(key) == "threshold"
        }
        tables = [self.read(file) for file in files[:: max(len(files) // FILES_FOR_A_PATTERN, 1)]]
        self.pattern = group_pattern(tables, config.get("args.num_generations"))
        self.rewards = next((names for table in tables if (names := reward_columns(table, self.logged_rewards))), [])

    def read(self, file: CompletionFile) -> dict[str, list]:
        """A table as `{column: values}`; one that is cut off is empty, and its path goes to `unreadable`."""
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            table = pq.read_table(file.path).to_pydict()
        except (OSError, ArrowException, UnicodeDecodeError):
            self.unreadable.add(file.path)
            table = {}
        rows = len(table.get("prompt", []))
        table.setdefault("kind", [""] * rows)
        return {name: table.get(name, [None] * rows) for name in dict.fromkeys([*table, *NO_REWARDS])}

    @property
    def weights(self) -> list[float] | None:
        """Weights of the reward functions; one alone weighs 1, and several have none without the run's settings."""
        given = self.config.get("args.reward_weights")
        if given is not None:
            return list(given) if len(given) == len(self.rewards) else None
        return [1.0] * len(self.rewards) if len(self.rewards) == 1 or "args.reward_weights" in self.config else None

    def groups(self, file: CompletionFile) -> list[Group]:
        """The whole training groups of a table."""
        table, groups = self.read(file), []
        table = dict.fromkeys(self.rewards, [None] * len(table["kind"])) | table
        for rows in whole_groups(table, self.pattern):
            group = read_group(table, rows, self.rewards, self.weights, file.step)
            describe_pairs(group, self.thresholds.get(file.step))
            groups.append(group)
        return groups


def read_sample(
    files: list[CompletionFile], steps: int, per_step: int, logs: list[dict], config: dict, notes: list[str]
) -> Sample:
    """
    Groups of `steps` steps, spread evenly over the run and with the last one, at most `per_step` of each.

    A table holds TRL's last generation batch. One that several steps train on stands in several tables and is taken
    once; an evaluation puts its own responses in the place of the step's, so that a step beside it is taken.
    """
    sample = Sample(steps=len(files), rows=sum(file.rows for file in files))
    if not files:
        notes.append("There are no samples: the run has no completions/*.parquet (log_completions=True writes them).")
        return sample
    tables, seen = Tables(files, logs, config), set()
    for chunk in in_chunks(files, steps):
        for file in chunk:
            groups = {
                (group.query, *(response.text for response in group.responses)): group for group in tables.groups(file)
            }
            fresh = [group for texts, group in groups.items() if texts not in seen]
            seen.update(groups)
            sample.groups += fresh[:per_step]
            if fresh:
                break
    sample.groups.sort(key=lambda group: group.step)
    if not sample.groups:
        notes.append("No whole group was found in completions/: its tables hold the responses of evaluations only.")
    if tables.unreadable:
        notes.append(f"{len(tables.unreadable)} completion table(s) could not be read to their end.")
    if config.get("args.mask_truncated_completions"):
        notes.append(
            "mask_truncated_completions=True took truncated responses out of their groups. The tables do not tell "
            "which ones these were, so that they can be marked as best or worst."
        )
    if any(group.tied is None for group in sample.groups):
        notes.append("Best and worst are not marked: the completion tables have no advantages to tell the order by.")
    return sample


def reward_by_kind(
    files: list[CompletionFile], steps: int, config: dict, notes: list[str]
) -> list[tuple[int, dict[str, float]]]:
    """Mean reward of each kind of candidate at up to `steps` logged steps, from the tables themselves."""
    tables, means = Tables(files, [], config), []
    if tables.weights is None:
        notes.append(
            f"The rewards {', '.join(tables.rewards)} are not summed: without run_config.json their weights are not "
            "known."
        )
        return []
    for chunk in in_chunks(files, steps):
        totals = {}
        for group in tables.groups(chunk[0]):
            for response in group.responses:
                if response.total is not None:
                    totals.setdefault(response.kind, []).append(response.total)
        if totals:
            means.append((chunk[0].step, {kind: sum(values) / len(values) for kind, values in totals.items()}))
    return means


def in_chunks(files: list[CompletionFile], chunks: int) -> Iterator[list[CompletionFile]]:
    """The files in up to `chunks` runs of neighbours, the last one from its end."""
    chunks = min(chunks, len(files))
    for i in range(chunks):
        chunk = files[i * len(files) // chunks : (i + 1) * len(files) // chunks]
        yield chunk[::-1] if i == chunks - 1 else chunk


def group_pattern(tables: list[dict[str, list]], num_generations: int | None = None) -> list[str]:
    """
    The kinds of a training group in order, `[G]`, as the tables show them; empty where they don't.

    Rows of one query stand together, and a group names its kinds once: where two groups of a query meet, their kinds
    repeat. The responses of an evaluation are plain, so kinds that differ are a training group's. Where all candidates
    are plain, what tells a group is the query alone.
    """
    votes, lengths = Counter(), []
    for table in tables:
        start = 0
        for row in range(1, len(table["kind"]) + 1):
            if row == len(table["kind"]) or table["prompt"][row] != table["prompt"][start]:
                kinds = table["kind"][start:row]
                lengths.append(len(kinds))
                period = next(p for p in range(1, len(kinds) + 1) if kinds == (kinds[:p] * len(kinds))[: len(kinds)])
                votes[tuple(kinds[:period])] += 1
                start = row
    if not votes:
        return []
    kinds = max(votes, key=lambda kinds: (len(set(kinds)) > 1, votes[kinds], len(kinds)))
    return list(kinds) if len(kinds) > 1 else list(kinds) * (num_generations or gcd(*lengths))


def whole_groups(table: dict[str, list], pattern: list[str]) -> Iterator[range]:
    """Rows of each whole training group of a table; an evaluation's rows and a torn group's are passed over."""
    row, size = 0, len(pattern)
    while size > 1 and row + size <= len(table["kind"]):
        queries = table["prompt"][row : row + size]
        if table["kind"][row : row + size] == pattern and all(query == queries[0] for query in queries):
            yield range(row, row + size)
            row += size
        else:
            row += 1


def reward_columns(table: dict[str, list], logged: set[str]) -> list[str]:
    """Names of the reward functions: those in the logs, or else the columns that hold numbers."""
    numeric = [
        name
        for name, values in table.items()
        if name not in NO_REWARDS and all(value is None or isinstance(value, float) for value in values)
    ]
    return [name for name in table if name in logged] or numeric


def read_group(table: dict[str, list], rows: range, names: list[str], weights: list[float] | None, step: int) -> Group:
    """
    A group, with its best and worst marked.

    The order is that of TRL's advantages, which grow with the weighted reward within a group: it is right where the
    weights are not known. As in training, the first of several equal ones is marked, and none where all are equal.
    """
    responses, order = [], {}
    for place, row in enumerate(rows):
        rewards = {name: number(table[name][row]) for name in names}
        response = Response(str(table["kind"][row]), as_text(table["completion"][row]), rewards)
        if any(reward is not None for reward in rewards.values()):
            order[place] = number(table["advantage"][row])
            if weights is not None:
                response.total = sum(
                    weight * reward
                    for weight, reward in zip(weights, rewards.values(), strict=True)
                    if reward is not None
                )
        responses.append(response)
    group = Group(step, as_text(table["prompt"][rows[0]]), responses)
    if None in order.values():
        return group
    group.tied = len(set(order.values())) < 2
    if not group.tied:
        best, worst = (responses[choose(order, key=order.get)] for choose in (max, min))
        best.mark, worst.mark = "best", "worst"
        if best.total is not None and best.total < worst.total:  # an only reward of negative weight
            for response in responses:
                response.total = None
    return group


def describe_pairs(group: Group, threshold: float | None) -> None:
    """Say of each of PLE's pairs, the i-th plain with the i-th guided response, how it was trained on."""
    half = len(group.responses) // 2
    if [response.kind for response in group.responses] != [PLAIN] * half + ["principle"] * half:
        return
    for i, (plain, guided) in enumerate(zip(group.responses[:half], group.responses[half:], strict=True), start=1):
        if plain.total is None or guided.total is None:
            continue
        gap = guided.total - plain.total
        sentence = f"pair {i}: gap {gap:+.3f}"
        if gap == 0:
            sentence += ", tied: teaches nothing"
        elif threshold is not None:
            sentence += f", threshold {threshold:.3f}: " + ("ranked" if gap > threshold else "imitated by weight")
        group.pairs.append(sentence)


def number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None


def as_text(value: object) -> str:
    """A prompt or completion as text: a conversation by its turns, an assistant's only turn as what it says."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return json.dumps(value, ensure_ascii=False, default=str)
    turns = [(turn.get("role"), turn_text(turn.get("content"))) for turn in value]
    if len(turns) == 1 and turns[0][0] == "assistant":
        return turns[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def turn_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
