"""Scene sorts photographs into scenes, with a neural network whose every layer is written out by hand.

Read in this order:  command, photo, findings, cores, folder: from files to pixels.  nn: the layers.  models: networks made of them.
augment, optim, checkpoint, train, parallel: how they learn.  metrics, modelfile, predict: how good they are, how they are kept, how they
are used.  endpoint, serve: how others ask them.  main: all of it.
"""
