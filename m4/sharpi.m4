# Checks of compiler and linker flags.

# SHARPI_TRY_CFLAG(FLAGS, IF-OK, IF-NOT): can the compiler compile with FLAGS, without a warning?
AC_DEFUN([SHARPI_TRY_CFLAG], [
  AC_MSG_CHECKING([whether $CC takes $1])
  sharpi_save_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -Werror $1"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])], [sharpi_ok=yes], [sharpi_ok=no])
  CFLAGS=$sharpi_save_CFLAGS
  AC_MSG_RESULT([$sharpi_ok])
  AS_IF([test $sharpi_ok = yes], [:
    $2], [:
    $3])
])

# SHARPI_TRY_LINK_FLAGS(FLAGS, IF-OK, IF-NOT): can a program be compiled and linked with FLAGS?
AC_DEFUN([SHARPI_TRY_LINK_FLAGS], [
  AC_MSG_CHECKING([whether $CC links with $1])
  sharpi_save_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS $1"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])], [sharpi_ok=yes], [sharpi_ok=no])
  CFLAGS=$sharpi_save_CFLAGS
  AC_MSG_RESULT([$sharpi_ok])
  AS_IF([test $sharpi_ok = yes], [:
    $2], [:
    $3])
])

# SHARPI_CHECK_ISA(NAME, FLAGS, STATEMENT, BELOW): sets have_NAME, the conditional HAVE_NAME, the definition HAVE_NAME and
# the substitution NAME_CFLAGS, and offers --disable-NAME. STATEMENT uses the instructions on `float *p`, because a compiler may
# know a flag but not its intrinsics. BELOW is the next weaker level ("yes" for none): without it this one is left out too.
AC_DEFUN([SHARPI_CHECK_ISA], [
  AC_ARG_ENABLE(m4_tolower([$1]),
    [AS_HELP_STRING([--disable-]m4_tolower([$1]), [leave the $1 kernels out (and those above)])],
    [sharpi_wanted=$enableval], [sharpi_wanted=yes])
  AC_MSG_CHECKING([for $1 intrinsics])
  have_$1=no
  AS_CASE([$host_cpu/$sharpi_wanted/$4], [x86_64/yes/yes|amd64/yes/yes], [
    sharpi_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $2"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <immintrin.h>
      void f(float *p);
      void f(float *p) { $3; }]], [[float x[64]; f(x);]])], [have_$1=yes])
    CFLAGS=$sharpi_save_CFLAGS
  ])
  AC_MSG_RESULT([$have_$1])
  AS_IF([test $have_$1 = yes], [AC_DEFINE([HAVE_$1], [1], [The compiler can emit $1 instructions.])])
  AM_CONDITIONAL([HAVE_$1], [test $have_$1 = yes])
  AC_SUBST([$1_CFLAGS])
])
