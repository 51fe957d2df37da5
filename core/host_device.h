// The one macro of the project: functions that run on the host and, when compiled by nvcc, on the device.
#pragma once

#ifdef __CUDACC__
#define GRAFT_HD __host__ __device__
#else
#define GRAFT_HD
#endif
