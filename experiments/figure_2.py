"""Figure 2: misalignment over training, with and without order preservation. See study.py for the options."""

from study import Study, main
from units import Unit

ENVS = ("smax_protoss_5v5", "smax_3m")
STUDY = Study(
    name="figure_2",
    title="Figure 2: misalignment of policies and Q_tot",
    about="max_a Q_tot(s, a) - Q_tot(s, (argmax_i pi_i)_i), mean over the steps of a batch, in units of scaled\n"
    "reward. The paper shows it growing for FOP; with an OPT it is 0, with an MLP in its place it need not be.",
    units=tuple(Unit(env, algo) for env in ENVS for algo in ("me_qmix", "me_qmix_mlp")),
    paper={(env, "me_qmix"): "0" for env in ENVS},
    shows=("misalignment", "mode"),
)

if __name__ == "__main__":
    main(STUDY)
