"""Backends of the operators, one module or package each.

=============  ==================================================================================
``reference``  dense, written to be obviously right: the oracle
``eager``      tensor code on any device: ``backend='torch'``
``triton``     kernels for CUDA devices, in the place of eager's operators; never ran on a GPU
=============  ==================================================================================
"""
