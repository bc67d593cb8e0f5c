"""Deep Compression: codebooks, bits by layer, positions, entropy coding and the .y5z container."""
