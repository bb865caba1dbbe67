"From a BirdCLEF folder to a Kaggle submission."
import os

# OpenMP threads wait for each other by spinning. For long, that makes a training step thirty times slower as soon as anything else runs on
# the machine; not at all, it costs a third of the speed of an idle one. libgomp reads this when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ: os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
