"""Wrong commands and damaged files as a user meets them: a process each, one line on stderr, nothing written."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from meigm_jax.config import to_dict
from meigm_jax.train import configure

ROOT = Path(__file__).resolve().parents[1]
GAME = "train +env=matrix_game"
SPREAD = "train +env=jaxmarl env.id=MPE_simple_spread_v3"
EARLY = [  # command -> what its one line says; answered before jax is imported
    # unknown keys, at every level
    (f"{GAME} sedds=3", "unknown key 'sedds'; did you mean seeds, seed?"),
    (f"{GAME} train.num_env=2", "unknown key 'train.num_env'; did you mean num_envs?"),
    (f"{GAME} +wandb.modus=online", "unknown key 'wandb.modus'; did you mean mode?"),
    (f"{GAME} algo.mixr.name=vdn", "unknown key 'algo.mixr'; did you mean mixer?"),
    (f"{GAME} algo.opt=two_layer algo.opt.widht=3", "unknown key 'algo.opt.widht'; did you mean width?"),
    ("train +env=jaxmarl env.id=MPE_simple_sprad_v3", "env.id: JaxMARL has no environment 'MPE_simple_sprad_v3'; did"),
    ("train +env=smax_3m env.options.max_step=9", "unknown key 'env.options.max_step'; did you mean max_steps?"),
    (f"{GAME} env.reward=2", "unknown key 'env.reward'; did you mean reward_scale?"),
    (f"{GAME} hyper.tdlambda=0.5", "unknown key 'hyper.tdlambda'; did you mean td_lambda?"),
    (f"{GAME} seed.first=1", "unknown key 'seed.first'; seed is not a section"),
    # types
    (f"{GAME} seeds=two", "seeds: expected int, got 'two'"),
    (f"{GAME} train.batch_size=2.5", "train.batch_size: expected int, got 2.5"),
    (f"{GAME} hyper.learning_rate=fast", "hyper.learning_rate: expected float, got 'fast'"),
    (f"{GAME} hyper.learning_rate=[1e-3,1e-4]", "hyper.learning_rate: expected float, got [0.001, 0.0001]"),
    (f"{GAME} log.progress=1", "log.progress: expected bool, got 1"),
    (
        f"{GAME} evaluation.policies=[greedy,best]",
        "evaluation.policies: expected one of greedy, sampled, mode, got",
    ),
    (f"{GAME} evaluation.policies={{a:1}}", "evaluation.policies: expected one of greedy, sampled, mode, got"),
    (f"{GAME} train=4", "train: expected a section, got 4"),
    (f"{GAME} env.options=4", "env.options: expected a section, got 4"),
    (f"{GAME} algo.mixer=null", "algo.mixer: the rule 'me_igm' needs one of vdn, qmix,"),
    (f"{GAME} algo=qmix algo.opt=two_layer", "algo.opt: expected null, the rule 'value_decomposition' has no opt"),
    (
        f"{GAME} algo=vdn algo.temperature=learned",
        "algo.temperature: expected null, the rule 'value_decomposition' has no",
    ),
    # ranges, and what fits together
    (f"{GAME} seeds=-1", "seeds: expected an integer of at least 1, got -1"),
    (f"{GAME} total_env_steps=1e10", "total_env_steps: expected an integer from 1 to 2^31 - 1, got 10000000000"),
    (
        "train +env=smax_3m total_env_steps=2147483647",
        "total_env_steps: in whole iterations of 2048 they must stay below",
    ),
    (f"{GAME} algo=cw_qmix algo.rule.low_weight=-3", "algo.rule.low_weight: expected a number from 0 to 1, got -3.0"),
    (
        f"{GAME} algo=qtran algo.rule.optimal_weight=-1",
        "algo.rule.optimal_weight: expected a number of at least 0, got",
    ),
    (
        "train +env=mpe_simple_spread env.options.local_ratio=7",
        "env.options.local_ratio: expected a number from 0 to 1, got 7.0",
    ),
    (f"{GAME} hyper.max_grad_norm=0", "hyper.max_grad_norm: expected a number above 0, got 0.0"),
    (f"{GAME} hyper.alpha_max=inf", "hyper.alpha_max: expected a finite number, got inf"),
    (f"{GAME} hyper.alpha_start=1e6", "hyper.alpha_start: expected a number from hyper.alpha_min"),
    ("train +env=smax_3m train.chunk_length=20", "train.chunk_length: expected at least the episode limit of smax_3m"),
    (f"{GAME} replay.capacity=17", "replay.capacity: expected a multiple of train.num_envs (16), got 17"),
    (f"{GAME} train.warmup_sequences=1e6", "train.warmup_sequences: expected at most replay.capacity"),
    (
        f"{GAME} evaluation.policies=[]",
        "evaluation.policies: expected some of greedy, sampled, mode, each once",
    ),
    # sweeps of hyper-parameters
    (f"{GAME} sweep.lambda=[0.5,0.9]", "unknown key 'sweep.lambda'; did you mean td_lambda"),
    (f"{GAME} sweep.seeds=[1,2]", "unknown key 'sweep.seeds'; known: alpha_decay_steps, "),
    (f"{GAME} sweep.gamma=0.9", "sweep.gamma: expected a list of numbers, sweep.gamma=[A,B,...], got 0.9"),
    (f"{GAME} sweep.gamma=[]", "sweep.gamma: expected a list of numbers, sweep.gamma=[A,B,...], got []"),
    (f"{GAME} sweep.gamma=[0.9,much]", "sweep.gamma: expected float, got 'much'"),
    (f"{GAME} sweep.gamma=[0.9,1.5]", "sweep.gamma: expected a number from 0 to 1, got 1.5"),
    (f"{GAME} sweep.lr=[1e-3,0]", "sweep.learning_rate: expected a number above 0, got 0.0"),
    (f"{GAME} sweep.lr=[1e-3,'0.001']", "sweep.learning_rate: expected values that differ (in six digits), got [0.001"),
    (
        f"{GAME} sweep.alpha_min=[1e-3,5] hyper.alpha_start=1",
        "sweep: with alpha_min=5, hyper.alpha_min: expected at most hyper.alpha_max (4.0), got 5.0",
    ),
    (
        f"{GAME} sweep.epsilon_end=[0.1,0.2]",
        "sweep.epsilon_end: me_qmix does not read it on matrix_game; it reads learning_rate, opt_",
    ),
    (f"{GAME} algo=iql sweep.alpha_lr=[0.1,0.2]", "sweep.alpha_learning_rate: iql does not read it on matrix_game; it"),
    (
        f"{GAME} sweep.alpha_end=[0.1,0.2]",
        "sweep.alpha_end: me_qmix does not read it on matrix_game; it reads learning_",
    ),
    (
        f"{GAME} algo=me_qmix_fixed sweep.target_entropy=[0.1,0.2]",
        "sweep.target_entropy: me_qmix_fixed does not read it on matrix_game; it reads learning_rate, opt_lear",
    ),
    (f"{GAME} algo=entropy_qmix sweep.opt_lr=[0.1,0.2]", "sweep.opt_learning_rate: entropy_qmix does not read it"),
    (f"{GAME} sweep.shaping_start=[0.5,1]", "sweep.shaping_start: me_qmix does not read it on matrix_game; it reads"),
    (f"{GAME} sweep.lr=[0.1] sweep.learning_rate=[0.3]", "sweep.learning_rate: sweep.lr is the same and is given too;"),
    (f"{GAME} hyper.learning_rate=0.1 hyper.lr=0.1", "hyper.lr: hyper.learning_rate is the same and is given too;"),
    (f"{GAME} gamma=0.9", "unknown key 'gamma'; did you mean hyper.gamma?"),
    (f"{GAME} lr=0.9", "unknown key 'lr'; did you mean hyper.lr?"),
    (f"{GAME} evaluation.policies=greedy,mode", "evaluation.policies: several values are possible for env, algo, ex"),
    (f"{GAME} algo.mixer.hypernet_layers=3", "algo.mixer.hypernet_layers: expected one of 1, 2, got 3"),
    (f"{GAME} sweep.gamma=0.9,0.99", "sweep.gamma: several values are possible for env, algo, experiment only, got"),
    (f"{GAME} sweep.alpha_lr=[0.1] hyper.alpha_lr=0.3", "sweep.alpha_learning_rate: hyper.alpha_learning_rate is"),
    # names
    ("train +env=smax_3n", "env: unknown name 'smax_3n'; did you mean smax_3m"),
    (f"{GAME} algo=vdm", "algo: unknown name 'vdm'; did you mean "),
    (
        f"{GAME} algo=me_qtran",
        "algo: unknown name 'me_qtran'; maximum-entropy versions: me_qatten, me_qmix, me_qmix_fixed,",
    ),
    (f"{GAME} algo=me_qmix algo.mixer=qtran", "algo.mixer.name: 'qtran' is a learning rule with a loss of its own"),
    (
        f"{GAME} algo=me_qmix algo.rule=qtran",
        "algo.opt: expected null, the rule 'qtran' has no opt",
    ),
    (
        f"{GAME} algo=qtran algo.temperature=learned",
        "algo.temperature: expected null, the rule 'qtran' has no",
    ),
    (f"{GAME} algo=iql algo.mixer=vdn", "algo.mixer: expected null, the rule 'independent' has no mixer"),
    (f"{GAME} +experiment=smok", "experiment: unknown name 'smok'; did you mean smoke?"),
    (f"{GAME} algo.agent=lstm", "algo.agent.name: unknown name 'lstm'; known: cnn, gru, mlp"),
    (f"{GAME} env.name=matrix_gane", "env.name: unknown environment 'matrix_gane'; did you mean matrix_game?"),
    # empty, or not to be read
    ("train algo=qmix,vdn", "missing +env=NAME; environments: "),
    (f"{GAME} algo=", "algo: unknown name ''; known: "),
    (f"{GAME} seed=", "seed: expected int, got ''"),
    (f"{GAME} run_dir=", "run_dir: expected a path, got ''"),
    ("train resume=", "resume: expected the path of a run or of a sweep, got ''"),
    (f"{GAME} seeds=[1", "cannot read 'seeds=[1': "),
    (f"{GAME} seeds 3", "cannot read 'seeds': expected key=value"),
    (f"{GAME} hyper.gamma=0.9,0.99", "hyper.gamma: several values are possible for env, algo, experiment only"),
    # environments by id, the payoff
    (
        "train +env=jaxmarl",
        "env.id: +env=jaxmarl needs the id of a JaxMARL environment, env.id=MPE_simple_reference_v3",
    ),
    ("train +env=smax_3m env.id=MPE_simple_v3", "env.id: only +env=jaxmarl takes an id, not smax_3m"),
    (f"{GAME} env.options.payoff=[[1,2]]", "env.options.payoff: expected a nested list of numbers, A x A"),
    (f"{GAME} env.options.payoff=[[1,2],[3,x]]", "env.options.payoff: expected a nested list of numbers, A x A"),
    # runs that are none
    ("train resume=nowhere", "resume: 'nowhere' is not a run directory (it has no config.yaml)"),
    ("train resume=file", "resume: 'file' is not a run directory (it has no config.yaml)"),
    ("train resume=full", "resume: 'full' is not a run directory (it has no config.yaml)"),
    (f"train resume={300 * 'x'}", "File name too long: xxx"),
    ("evaluate", "the following arguments are required: RUN (see --help)"),
    ("evaluate nowhere", "run: 'nowhere' is not a run directory (it has no config.yaml)"),
    ("evaluate empty", "run: 'empty' is not a run directory (it has no config.yaml)"),
    ("evaluate run", "run: 'run' has no checkpoint yet"),
    ("plot", "the following arguments are required: RUN_OR_FOLDER"),
    ("plot empty", "no runs found below empty: a run has config.yaml and metrics.jsonl"),
    ("plot file", "no runs found below file: a run has config.yaml and metrics.jsonl"),
    ("plot run --out curves.gif", "--out: expected a file name that ends in .png, .pdf, .svg, got 'curves.gif'"),
    # resuming as something else
    ("train resume=run algo.mixer.embed_dim=64", "algo.mixer.embed_dim: cannot change on resume (32 in run)"),
    ("train resume=run algo=vdn", "algo.name: cannot change on resume (qmix in run)"),
    ("train resume=run sweep.gamma=[0.9]", "sweep.gamma: cannot change on resume (not set in run)"),
    ("train resume=run total_env_steps=99", "total_env_steps: can only grow on resume (2048 in run), got 99"),
]
DAMAGED = {  # content of a run's config.yaml -> what is said of it
    b"": "configuration: expected a section, got None",
    b"\x80\x00\xff\xfe": "",  # the words of the YAML parser
    b"seed: 1\nenv: {name: matr": "",
    b"seed: one": "",
    b"- 1": "configuration: expected a section, got [1]",
}
LATE = [  # what only the environment, the machine and the file system can tell: these import jax
    (f"{GAME} run_dir=full", "run_dir: full exists; choose another name or run_dir\n"),
    (f"{GAME} run_dir=run", "run_dir: run exists; choose another name or run_dir, or go on with resume=run"),
    (
        f"{GAME} run_dir=file/a/run",
        "run_dir: cannot make file/a/run: {cwd}/file is not a folder that can be written to",
    ),
    (f"{GAME} run_dir=/proc/run", "run_dir: cannot make /proc/run: "),
    (f"{GAME} replay.capacity=16e9", "replay.capacity: the replay needs "),
    (f"{GAME},smax_3m replay.capacity=16e6", "replay.capacity: the replay needs "),  # of the second run
    (f"{GAME} replay.observations=recomputed", "replay.observations: matrix_game cannot recompute its observations;"),
    (f"{GAME},mpe_simple_spread algo.agent.name=cnn", "algo.agent.name: cnn needs observations of height x width"),
    ("train +env=smax_3m algo.agent.name=cnn", "algo.agent.name: cnn needs observations of height x width x channels"),
    (
        f"{SPREAD} train.chunk_length=9",
        "train.chunk_length: expected at least the episode limit of jaxmarl_MPE_simple_spr",
    ),
    (f"{SPREAD} env.options.action_type=Continuous", "env.id: MPE_simple_spread_v3 has continuous actions"),
    (f"{SPREAD} env.options.num_agents=0", "env.options: MPE_simple_spread_v3 with {{'num_agents': 0}} has no agents"),
    (f"{SPREAD} env.options.num_agentss=3", "unknown key 'env.options.num_agentss'; did you mean num_agents"),
    ("train +env=jaxmarl env.id=hanabi", "env.options.time_limit: jaxmarl_hanabi has no time limit of its own"),
]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a file, an empty and a full folder, and a run that has not got far."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    (tmp_path / "run").mkdir()
    config = configure(*"+env=matrix_game +experiment=smoke algo=qmix".split())
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (tmp_path / "run/metrics.jsonl").touch()
    return tmp_path


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(command: str, cwd: Path, modules: str = "", limits: Callable[[], None] | None = None) -> str:
    """The one line that the command is refused with. `modules` must not have been imported by then."""
    name, *arguments = shlex.split(command, posix=False)
    before = content(cwd)
    start = [sys.executable, "-m", f"meigm_jax.{name}"]
    if modules:
        code = f"import sys; from meigm_jax.{name} import main; code = main(sys.argv[1:])\n"
        start = [sys.executable, "-c", f"{code}sys.exit('imported' if '{modules}' in sys.modules else code)"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*start, *arguments], cwd=cwd, env=settings, capture_output=True, text=True, timeout=60, preexec_fn=limits
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    assert content(cwd) == before
    return done.stderr.removeprefix("error: ")


@pytest.mark.parametrize(("command", "message"), EARLY)
def test_a_wrong_command_is_refused_in_one_line_before_jax_is_imported(command, message, workplace):
    assert refused(command, workplace, modules="jax").startswith(message)


@pytest.mark.parametrize(("command", "message"), LATE)
def test_what_cannot_be_trained_is_refused_in_one_line(command, message, workplace):
    assert refused(command, workplace).startswith(message.format(cwd=workplace))


@pytest.mark.parametrize("damaged", DAMAGED)
@pytest.mark.parametrize(("command", "what"), [("train resume=run", "resume"), ("evaluate run", "run")])
def test_a_damaged_configuration_is_named(command, what, damaged, workplace):
    (workplace / "run/config.yaml").write_bytes(damaged)
    line = refused(command, workplace, modules="jax")
    assert line.startswith(f"{what}: cannot use 'run/config.yaml': {DAMAGED[damaged]}") and len(line) < 600
    if damaged == b"seed: one":
        assert "seed: expected int, got 'one'" in line or "missing key 'seeds'" in line


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (f"{GAME} +experiment=smoke name=one", "runs/matrix_game/me_qmix/one/config.yaml"),
        (f"{GAME} +experiment=smoke run_dir=out/run", "out/run/config.yaml"),
        (f"{GAME} +experiment=smoke run_dir=out algo=qmix,vdn", "out/sweep.yaml"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_begun(command, file, workplace):
    """A limit on the size of files is what a full disk is to a process: no file gets whole."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    assert refused(command, workplace, limits=full).startswith(f"run_dir: cannot write {file}: File too large")
