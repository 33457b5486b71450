"""One recipe in, one adapter out. This room has never heard of Optuna."""

import logging

# At its import bitsandbytes warns of a CPU kernel that it can do without, in every process that trains.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
