"""Optimisation and logic in a bounded depth: is the exact algorithm found by training?"""
