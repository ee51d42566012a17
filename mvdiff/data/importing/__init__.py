"""Read the pictures that another method made: panoramas, cube faces or views, in folders without `sample.json`.

`find_pictures` names the samples of a folder, and one file per kind turns the pictures of a sample into views: by the
samplers of the data modules, so that imported ground truth equals their views bit for bit.
"""
