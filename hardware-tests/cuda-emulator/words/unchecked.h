// The words of the language for kernels that the compiler does not look at while they run (CUDA_EMULATOR_CHECKS=off): the same ones, under a name of
// their own, so that they can be compiled with other flags.
#pragma once

#include "language.h"
