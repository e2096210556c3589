"""ms-swift plugins that every use of a model needs. Their own folder, because ms-swift adds it to ``sys.path``."""
