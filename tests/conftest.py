from hypothesis import settings

settings.register_profile("capbench", deadline=None)  # a slow machine is no failure
settings.load_profile("capbench")
