"""ms-swift plugins that only training needs. They have their own folder because ms-swift adds it to ``sys.path``."""
