"""The contest: which plan learns best on the user's own pictures, inside the budget and the minutes there are.

pool (which pictures) → contest (plans, bundles, journal) → halving (who goes on; pure) → trial (a process of its own)
"""
