"""The network: layers, the paper's three modules, their composition, decoding and weights files."""
