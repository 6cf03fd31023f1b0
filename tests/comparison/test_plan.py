import pytest


@pytest.fixture
def plan(module):
    return module("plan")


@pytest.fixture
def files(plan, monkeypatch, tmp_path):
    """Write method and task files of one's own."""
    monkeypatch.setattr(plan, "HERE", tmp_path)

    def write(folder: str, name: str, text: str):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").write_text(text)

    return write


def test_every_shipped_method_can_be_configured_for_every_shipped_task(module, plan, tmp_path):
    training = module("training")
    for task_name in plan.task_names():
        task = plan.read_task(task_name)
        for name in plan.method_names(task):
            method = plan.read_method(name)
            for run in plan.grid_runs(task, method)[:1] if name != plan.START else []:
                config = training.config_of(run, str(tmp_path))
                assert config.max_steps == task["budget"]["steps"]
                rows = task["budget"]["completions"] // method["completions_per_row"]
                if name != "neat_responses":  # see below
                    assert config.per_device_train_batch_size == rows
                assert config.learning_rate == task["learning_rates"][0]


def test_the_start_model_is_first_and_runs_once(plan, task):
    assert plan.method_names(task, ["grpo", "neat"]) == ["start", "grpo", "neat"]
    assert [run["setting"] for run in plan.grid_runs(task, plan.read_method("start"))] == [{}]


def test_the_grid_is_every_learning_rate_with_every_tuned_value(plan, task, files):
    files("methods", "mine", "says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\ntune: {beta: [0.0, 0.1]}")
    runs = plan.grid_runs(task, plan.read_method("mine"))
    assert [run["setting"] for run in runs] == [
        {"learning_rate": rate, "beta": beta} for rate in (1e-3, 1e-2) for beta in (0.0, 0.1)
    ]
    folders = {plan.folder_of("results", run) for run in runs}
    assert len(folders) == 4 and str(plan.folder_of("results", runs[0])).endswith("mine/grid-lr0.001-beta0-seed0")


def test_a_method_for_some_tasks_is_left_out_of_others(plan, task, files):
    files("methods", "start", "says: x")
    files("methods", "mine", "says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\ntasks: [dialogue]")
    assert plan.method_names(task) == ["start"]
    assert plan.method_names(task | {"name": "dialogue"}) == ["start", "mine"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\noptions: {gruop: 4}", "no option 'gruop'"),
        ("says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\ntune: {betta: [1]}", "no option 'betta'"),
        ("says: x\ntrainer: trl.NoTrainer\nconfig: trl.GRPOConfig", "'trl.NoTrainer' cannot be imported"),
        ("says: x\ntrainer: GRPOTrainer\nconfig: trl.GRPOConfig", "'GRPOTrainer' cannot be imported"),
        ("says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\nlr: 1", "'lr' is unknown"),
        ("says: x\ntrainer: trl.GRPOTrainer", "lacks 'config'"),
        ("says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\ndata: posts", "data 'posts' is unknown"),
        ("- a", "no mapping"),
    ],
)
def test_a_wrong_method_file_is_one_line_with_its_name(plan, files, text, said):
    files("methods", "mine", text)
    with pytest.raises(plan.PlanError) as caught:
        plan.read_method("mine")
    assert said in str(caught.value) and "methods/mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named_with_what_is(plan):
    with pytest.raises(plan.PlanError, match="tasks/poems.yaml is not there. There are .*sentiment"):
        plan.read_task("poems")


def test_options_of_the_method_go_before_the_budget(plan, module, task, files, tmp_path):
    text = "says: x\ntrainer: trl.GRPOTrainer\nconfig: trl.GRPOConfig\noptions: {temperature: 0.7, beta: 0.1}"
    files("methods", "mine", text)
    config = module("training").config_of(plan.grid_runs(task, plan.read_method("mine"))[0], str(tmp_path))
    assert (config.temperature, config.beta, config.num_generations) == (0.7, 0.1, 4)


def test_responses_of_the_dataset_come_on_top_of_what_is_sampled(plan, module, tmp_path):
    training, task = module("training"), plan.read_task("dialogue")
    configs = {}
    for name in ("neat", "neat_responses"):
        run = plan.grid_runs(task, plan.read_method(name))[0]
        configs[name] = training.config_of(run, str(tmp_path))
    alone, joined = configs["neat"], configs["neat_responses"]
    # four queries a step, of which each has four samples, two under each guide
    assert (alone.per_device_train_batch_size, alone.num_generations) == (16, 4)
    assert (joined.per_device_train_batch_size, joined.num_generations) == (24, 6)
    assert alone.counts(0) == joined.counts(2) == (0, 2, 2)
    ours = {"per_device_train_batch_size", "num_generations", "dataset_responses"}
    same = {key for key, value in alone.to_dict().items() if value == joined.to_dict()[key]}
    assert set(alone.to_dict()) - same - ours <= {"generation_batch_size", "steps_per_generation", "logging_dir"}
