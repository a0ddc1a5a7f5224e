"""The care desk: the embedded world that a newcomer sees first. `world.CareDesk` is the way in.

facts.py what is true; prompts.py what customers ask, asking.py at random; grammar.py how the desk
replies; gold.py and checker.py the two judges, of tone and of facts; raters.py simulated people;
log.py the deployed desk; sabotage.py how to spoil the labels. Nothing here imports torch.
"""
