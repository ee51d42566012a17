"""Recipes: a world, trainings, methods and metrics, run from data to a page (`runner.run_recipe`).

The three quickstarts are recipes. A recipe is made of what a user calls: `mvdiff fit`, pipelines, metrics, the report.
"""
