# SHARPI_CUDA: looks for the CUDA toolkit (nvcc, headers, the static runtime) and decides what code nvcc makes.
# Sets have_cuda, NVCC, CUDA_ARCH_FLAGS, CUDA_CPPFLAGS, CUDA_LIBS and the conditional HAVE_CUDA; defines HAVE_CUDA for C.
# Programs need no toolkit and no driver to run: the runtime is linked statically and finds the driver by itself.
AC_DEFUN([SHARPI_CUDA], [
  AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@], [CUDA backend with the toolkit in DIR (default: where nvcc is, if anywhere)])],
    [], [with_cuda=auto])
  AC_ARG_WITH([cuda-arch],
    [AS_HELP_STRING([--with-cuda-arch=LIST], [compute capabilities to make code for, such as 80,90, or 80-virtual for PTX that the driver compiles (default: 80,90,90-virtual, which serve all of 8.x and 9.x, and what is newer by PTX)])],
    [], [with_cuda_arch=])
  AC_ARG_VAR([NVCCFLAGS], [flags for nvcc, default -O3])
  : ${NVCCFLAGS=-O3}
  have_cuda=no
  cuda_why=' (--without-cuda)'
  AS_IF([test "x$with_cuda" != xno], [
    AS_CASE([$with_cuda], [yes|auto], [cuda_path="${CUDA_HOME:+$CUDA_HOME/bin:}${CUDA_PATH:+$CUDA_PATH/bin:}$PATH:/usr/local/cuda/bin"],
      [cuda_path="$with_cuda/bin"])
    AC_PATH_PROG([NVCC], [nvcc], [], [$cuda_path])
    cuda_why=' (nvcc not found, or --without-cuda)'
    AS_IF([test -n "$NVCC"], [SHARPI_CUDA_TOOLKIT])
    AS_IF([test $have_cuda = no && test "x$with_cuda" != xauto],
      [AC_MSG_ERROR([no usable CUDA toolkit with --with-cuda=$with_cuda: nvcc >= 12.1 with libcudart_static.a is needed (config.log has more)])])
  ])
  AS_IF([test $have_cuda = yes], [AC_DEFINE([HAVE_CUDA], [1], [The CUDA backend and the KV formats' kernels for it are built.])])
  AM_CONDITIONAL([HAVE_CUDA], [test $have_cuda = yes])
])

# nvcc is $NVCC: finds headers and library beside it (links followed) and tries everything at once.
AC_DEFUN([SHARPI_CUDA_TOOLKIT], [
  cuda_dir=`readlink -f "$NVCC"`
  cuda_dir=`AS_DIRNAME(["$cuda_dir"])`
  cuda_dir=`AS_DIRNAME(["$cuda_dir"])`
  CUDA_CPPFLAGS="-isystem $cuda_dir/include"
  CUDA_LIBS="-lcudart_static -lpthread -ldl -lrt"
  for cuda_lib in "$cuda_dir/lib64" "$cuda_dir/lib" "$cuda_dir/targets/x86_64-linux/lib" "$cuda_dir/targets/sbsa-linux/lib"; do
    AS_IF([test -f "$cuda_lib/libcudart_static.a"], [CUDA_LIBS="-L$cuda_lib $CUDA_LIBS"; break])
  done
  CUDA_ARCH_FLAGS=
  cuda_archs=`echo "${with_cuda_arch:-80,90,90-virtual}" | tr ',' ' '`
  CUDA_CPPFLAGS="$CUDA_CPPFLAGS -DCUDA_ARCHS='\"$cuda_archs\"'"
  for cuda_arch in $cuda_archs; do
    dnl Warpgroup matrix instructions are only in the code for exactly this chip.
    AS_CASE([$cuda_arch],
      [90], [cuda_arch=90a cuda_code=sm_90a],
      [*-virtual], [cuda_arch=`echo "$cuda_arch" | sed 's/-virtual$//'` cuda_code=compute_$cuda_arch],
      [cuda_code=sm_$cuda_arch])
    CUDA_ARCH_FLAGS="$CUDA_ARCH_FLAGS -gencode arch=compute_$cuda_arch,code=$cuda_code"
  done
  dnl Host code without a C++ runtime: libraries are linked by the C compiler.
  NVCC_HOST_FLAGS="-Xcompiler=-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics"
  AC_MSG_CHECKING([whether $NVCC makes programs for $cuda_archs])
  cat >conftest.cu <<'CONFTEST'
#include <cuda_runtime.h>
__global__ void kernel(int *x) { *x = CUDART_VERSION; }
#if CUDART_VERSION < 12010
#error too old
#endif
int main(void) { int n = 0; kernel<<<1, 1>>>(&n); return cudaGetDeviceCount(&n) == cudaSuccess && n < 0; }
CONFTEST
  AS_IF([AC_RUN_LOG([$NVCC -std=c++17 $CUDA_ARCH_FLAGS $NVCC_HOST_FLAGS -c conftest.cu -o conftest.$OBJEXT >&AS_MESSAGE_LOG_FD 2>&1 &&
      $CC $CFLAGS $LDFLAGS -o conftest$EXEEXT conftest.$OBJEXT $CUDA_LIBS >&AS_MESSAGE_LOG_FD 2>&1])],
    [have_cuda=yes], [cuda_why=" ($NVCC does not work for compute capability $cuda_archs: see config.log)"])
  rm -f conftest*
  AC_MSG_RESULT([$have_cuda])
  AC_SUBST([CUDA_ARCH_FLAGS])
  AC_SUBST([NVCC_HOST_FLAGS])
  AC_SUBST([CUDA_CPPFLAGS])
  AC_SUBST([CUDA_LIBS])
])
