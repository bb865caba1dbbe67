"""What each technique of a recipe adds: the recipe whole, then with one of them taken out at a time.

    python tests/bench/ablation.py --data DATA --work FOLDER [--recipe best] [--minutes 16] [--seeds 2] [--without NAME ...]

Trained and judged as in league.py, for the same minutes each; a recipe without a stage gives its time to those that are left. Overlap and post-processing
are taken out of the submission alone, with the models of the whole recipe. The column gain says how far a recipe falls
without the technique, with an interval over soundscapes drawn again with replacement. Writes <work>/ablation.csv and ablation.png; a stopped run goes on.
"""
from league import run_league

from birdkit.recipe import find_recipe

WITHOUT = {   # What each technique is in a recipe, by the change that takes it out, or puts what `small` does in its place
    "cleaning": {"data.clean": ()},
    "class-balance": {"sampling.class_power": 0.},
    "loud-windows": {"sampling.best_of": 1},
    "mixed-clips": {"augment.wave.mix_clips": None},
    "backgrounds": {"augment.wave.add_background": None},
    "equaliser": {"augment.power": ()},
    "masks": {"augment.picture": ()},
    "attention-head": {"model.head": "pool"},
    "cross-entropy": {"loss.name": "focal_bce"},
    "focal-loss": {"loss.name": "ce_bce"},
    "frame-loss": {"loss.frame": 0.},
    "average": {"optim.average": "last"},
    "fine-picture": {"frontend.n_mels": 64, "frontend.hop": 800},
    "students": {"pseudo.rounds": 0},
    "single-round": {"pseudo.rounds": 2},
    "overlap": {"infer.stride_s": 5.},
    "smoothing": {"infer.post": (("top_scale", 1),)},
    "post": {"infer.post": ()},
}


def choose(
    given,  # Of the command line
):          # {name: Recipe}, the whole recipe first
    "The recipe, and the recipe without each technique that it has; all carry its name, so that two recipes share no folder."
    whole = find_recipe(given.recipe)
    found = {given.recipe: whole} | {f"{given.recipe}-without-{name}": whole.but(WITHOUT[name]) for name in given.without}
    return {name: recipe for name, recipe in found.items() if name == given.recipe or recipe != whole}


def options(parser):
    "What is taken out of what."
    parser.add_argument("--recipe", default="best", help="default %(default)s")
    parser.add_argument("--without", nargs="+", choices=WITHOUT, default=list(WITHOUT),
                        metavar="NAME", help="techniques to take out: %(choices)s (default: all)")


def main(
    argv=None,  # Arguments, by default those of the command line
):
    "Read the command line."
    run_league(argv, __file__, __doc__, choose, 16., 2, options)


if __name__ == "__main__":
    main()
