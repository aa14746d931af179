import ebt_policy  # noqa: F401  (LeRobot imports a plugin by the name of its distribution)
