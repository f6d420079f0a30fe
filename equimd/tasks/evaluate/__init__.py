"""How good a model is on labelled frames: ``measure`` has the errors and how well sigmas match them, ``result`` the
function and what it returns."""
