"""PaiNN over e3nn irreps: network, layouts of pairs and edges, radial functions, its tangents and its plain twin."""
