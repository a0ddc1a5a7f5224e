"""From verdicts to pairs: scales, votes, rater models, rules, and how they are joined."""
