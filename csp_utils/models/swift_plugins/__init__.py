"""Plugins that ms-swift loads by path; a folder of their own, because ms-swift puts it on the path of modules."""
