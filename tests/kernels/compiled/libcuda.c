/* As much of the driver as a launcher of Triton calls; it only notes what would be started. */
#include "cuda.h"

static CUlaunchConfig last;
static int launches;

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = (CUcontext)1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int number) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) { return CUDA_SUCCESS; }
CUresult cuFuncSetAttribute(CUfunction kernel, CUfunction_attribute attribute, int value) {
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  *(CUdeviceptr *)value = pointer;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction kernel, void **parameters,
                          void **extra) {
  last = *config;
  ++launches;
  return CUDA_SUCCESS;
}

int blocks_of_launch(int number) {
  return number == launches ? last.gridDimX * last.gridDimY * last.gridDimZ : 0;
}
