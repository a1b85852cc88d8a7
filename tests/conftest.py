"""Shapes and types of the package are checked at run time in every test that imports it."""

from jaxtyping import install_import_hook

install_import_hook("activation_descent", "beartype.beartype")
