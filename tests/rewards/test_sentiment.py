from trl_negalign.rewards.sentiment import vader_reward


def test_texts_and_messages_score_alike():
    texts = ["A wonderful, lovely evening.", "An awful, boring evening."]
    scores = vader_reward(completions=texts, prompts=["x", "y"])
    assert scores == vader_reward([[{"role": "assistant", "content": text}] for text in texts])
    assert scores[0] > 0.5 and scores[1] < -0.5


def test_the_empty_text_is_neutral():
    assert vader_reward([""]) == [0.0]
