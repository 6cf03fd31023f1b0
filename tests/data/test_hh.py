import pytest

from trl_negalign.data import BadRow
from trl_negalign.data.hh import datasets, parse


HISTORY = "\n\nHuman: Hi there\n\nAssistant: Hello!\n\nHuman: How do I boil an egg?"
CHOSEN = f"{HISTORY}\n\nAssistant: Seven minutes."
REJECTED = f"{HISTORY}\n\nAssistant: No idea."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PROMPT = [user("Hi there"), assistant("Hello!"), user("How do I boil an egg?")]


def test_the_history_is_the_query_and_the_last_turn_the_response():
    assert parse({"chosen": CHOSEN, "rejected": REJECTED}) == {
        "prompt": PROMPT,
        "chosen": [assistant("Seven minutes.")],
        "rejected": [assistant("No idea.")],
    }


@pytest.mark.parametrize(
    "said",
    [
        "He said: Human: run! and Assistant: stay.",
        "Look:\nHuman: run!",
        "Human: run!",
        "One.\n\nTwo.",
        "Of them:\n\nHumans: all",
        "A ratio:\n\nHuman:Assistant is 2:1",
        "Then\n\n Human: run!",
    ],
)
def test_a_speakers_name_separates_only_after_an_empty_line(said):
    chosen, rejected = (f"\n\nHuman: {said}\n\nAssistant: {said}{end}" for end in ("", "!"))
    assert parse({"chosen": chosen, "rejected": rejected}) == {
        "prompt": [user(said)],
        "chosen": [assistant(said)],
        "rejected": [assistant(f"{said}!")],
    }


def test_blanks_around_turns_do_not_make_histories_differ():
    assert parse({"chosen": CHOSEN.replace("Hello!", " Hello! "), "rejected": REJECTED})["prompt"] == PROMPT


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (CHOSEN.replace("Hello!", "Go away!"), "chosen and rejected have different histories"),
        ("\n\nHuman: Hi there\n\nAssistant: Hello!", "chosen and rejected have different histories"),
        (REJECTED, "chosen and rejected are the same"),
        ("", "chosen has no turn"),
        ("Nobody spoke.", "chosen has text before its first turn"),
        (f"Some words.{CHOSEN}", "chosen has text before its first turn"),
        ("\n\nAssistant: Hello!\n\nHuman: Hi\n\nAssistant: Hm.", "chosen does not begin with the user"),
        (HISTORY, "chosen does not end with the assistant"),
        (f"{HISTORY}\n\nHuman: Tell me!\n\nAssistant: Seven.", "chosen has two turns of the user in a row"),
        (f"{CHOSEN}\n\nAssistant: Or six.", "chosen has two turns of the assistant in a row"),
        (f"{HISTORY}\n\nAssistant: ", "chosen has an empty answer"),
        (f"{HISTORY}\n\nAssistant:", "chosen has an empty answer"),
        (CHOSEN.replace("Hi there", " "), "chosen has an empty turn in its history"),
        ("\n\nHuman:\n\nAssistant: Hm.", "chosen has an empty turn in its history"),
        (None, "chosen is neither a transcript nor a list of messages"),
        (7, "chosen is neither a transcript nor a list of messages"),
        (["Hello!"], "chosen has a message without role and content"),
        ([{"role": "assistant"}], "chosen has a message without role and content"),
        ([{"role": "assistant", "content": None}], "chosen has a message whose role or content is no text"),
    ],
)
def test_bad_transcripts_name_the_reason(chosen, reason):
    with pytest.raises(BadRow) as error:
        parse({"chosen": chosen, "rejected": REJECTED})
    assert str(error.value) == reason


def test_the_rejected_side_is_checked_too():
    with pytest.raises(BadRow, match="^rejected does not end with the assistant$"):
        parse({"chosen": CHOSEN, "rejected": HISTORY})


def test_messages_are_accepted_and_left_as_they_are():
    row = {"prompt": PROMPT, "chosen": [assistant(" Seven. ")], "rejected": [assistant("No.")], "source": "x"}
    assert parse(row) == {key: row[key] for key in ("prompt", "chosen", "rejected")}


def test_whole_dialogues_as_messages():
    chosen, rejected = ([*PROMPT, assistant(text)] for text in ("Seven.", "No."))
    assert parse({"chosen": chosen, "rejected": rejected})["prompt"] == PROMPT


def test_a_system_message_may_come_first():
    prompt = [{"role": "system", "content": "Be terse."}, user("Hi")]
    row = {"prompt": prompt, "chosen": [assistant("Hi.")], "rejected": [assistant("What?")]}
    assert parse(row)["prompt"] == prompt
    row["prompt"] = prompt[:1]
    with pytest.raises(BadRow, match="chosen does not begin with the user"):
        parse(row)


def test_the_chosen_answer_is_the_completion_of_sft():
    row = parse({"chosen": CHOSEN, "rejected": REJECTED})
    made = datasets([row])
    assert made["sft"] == [{"prompt": PROMPT, "completion": [assistant("Seven minutes.")]}]
    assert made["preference"] == made["queries"] == [row]
