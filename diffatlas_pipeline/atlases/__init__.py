"""Around the predictor: kept training cases as atlases, appearance synthesised from them, late fusion with them."""
