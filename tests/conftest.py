import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are so small that threads only wait for each other
settings.register_profile("capbench", deadline=None)  # a slow machine is no failure
settings.load_profile("capbench")
