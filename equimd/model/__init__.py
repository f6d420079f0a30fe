"""What the rest of equimd needs of a potential (``interface``), and the one that it trains (``painn``)."""
