"""Backends of the operators, none of which imports another.

=============  ==================================================================================
``reference``  dense, written to be obviously right: the oracle
``scatter``    plain tensor code for any device and derivatives of any order
``cpu``        one compiled kernel, forward and backward
``triton``     kernels for CUDA devices; never ran on a GPU
``call``       what each of them is given
``dropout``    which weights dropout keeps, the same for all of them
``operator``   from the door to a backend, and to autograd and ``torch.compile``
=============  ==================================================================================
"""
