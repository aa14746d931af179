import ebt_policy.registration  # noqa: F401  (LeRobot imports a plugin by the name of its distribution)
