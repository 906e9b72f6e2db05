"""LayerRoute: decides per agent step which transformer blocks run, and reports what that saved."""

__version__ = "0.1.0"

__all__ = ["__version__"]
