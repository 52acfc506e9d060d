# Who may include whom, read from the #include lines.
#   cmake -DROOT=<source tree> -P check_layering.cmake        fails with one line per violation
#   cmake -DSELF_TEST=<empty folder> -P check_layering.cmake  plants violations and expects each to be caught
cmake_minimum_required(VERSION 3.24)

# Each room may include itself, include/ and these. Rooms not named here (tests, tools) may include anything of ours.
set(rooms include base loader stream cache kernels offload model app)
set(may_include)
set(may_base)
set(may_loader base)
set(may_stream base)
set(may_cache base)
set(may_kernels base)
set(may_offload base loader stream cache kernels)
set(may_model base loader cache kernels offload)
set(may_app base)

# Headers that only one file or folder may know: "<pattern> <files allowed to include it>".
set(private_headers
  "^liburing(\\.h|/) ^stream/engine_uring\\.c$"
  "^(histedit\\.h$|editline/) ^app/line\\.c$"
  "^jansson\\.h$ ^base/json\\.c$"
  "^(cuda|cublas|cooperative_groups|mma\\.h|nvtx) ^kernels/cuda/gpu_nvcc\\.h$"
  "^kernels/cuda/gpu ^(kernels|tests)/cuda/"
  "^kernels/cuda/sim/ ^(kernels/cuda/(sim/|gpu\\.h$)|tests/cuda/)")

function(check_private file target out)
  foreach(rule ${private_headers})
    string(REPLACE " " ";" rule "${rule}")
    list(GET rule 0 header)
    list(GET rule 1 allowed)
    if(target MATCHES "${header}" AND NOT file MATCHES "${allowed}")
      set(${out} "${target} may not be included here" PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

function(check_include file room line out)
  set(found "")
  if(line MATCHES "^[ \t]*#[ \t]*include[ \t]*\"([^\"]+)\"")
    set(target "${CMAKE_MATCH_1}")
    string(REGEX MATCH "^[^/]*" target_room "${target}")
    if(NOT target MATCHES "/" OR target MATCHES "\\.\\./")
      set(found "\"${target}\" is not written from the root")
    elseif(room IN_LIST rooms AND NOT target_room STREQUAL room AND NOT target_room STREQUAL "include"
           AND NOT target_room IN_LIST may_${room})
      set(found "${room}/ may not include \"${target}\"")
    else()
      check_private("${file}" "${target}" found)
    endif()
  elseif(line MATCHES "^[ \t]*#[ \t]*include[ \t]*<([^>]+)>")
    set(target "${CMAKE_MATCH_1}")
    string(REGEX MATCH "^[^/]*" target_room "${target}")
    if(target MATCHES "/" AND target_room IN_LIST rooms)
      set(found "<${target}> is ours: write it with quotes")
    else()
      check_private("${file}" "${target}" found)
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# `count` include lines were looked at; `violations` is a list of sentences.
function(check_tree root count violations)
  set(n 0)
  set(bad)
  file(GLOB top LIST_DIRECTORIES true RELATIVE ${root} ${root}/*)
  foreach(dir ${top})
    if(NOT IS_DIRECTORY ${root}/${dir} OR dir MATCHES "^(build|docs|models|\\.)")
      continue()
    endif()
    file(GLOB_RECURSE files RELATIVE ${root}
      ${root}/${dir}/*.c ${root}/${dir}/*.h ${root}/${dir}/*.cc ${root}/${dir}/*.cu ${root}/${dir}/*.cuh ${root}/${dir}/*.inc)
    foreach(file ${files})
      file(STRINGS ${root}/${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[\"<]")
      foreach(line ${lines})
        math(EXPR n "${n} + 1")
        check_include("${file}" "${dir}" "${line}" found)
        if(found)
          list(APPEND bad "${file}: ${found}")
        endif()
      endforeach()
    endforeach()
  endforeach()
  set(${count} ${n} PARENT_SCOPE)
  set(${violations} "${bad}" PARENT_SCOPE)
endfunction()

function(self_test root)
  file(REMOVE_RECURSE ${root})
  # file | include line | caught or fine
  set(cases
    "base/a.c|#include \"base/a.h\"|fine"
    "base/b.c|#include \"loader/a.h\"|caught"
    "loader/a.c|#include \"base/a.h\"|fine"
    "loader/b.c|#  include \"cache/a.h\"|caught"
    "cache/a.c| #include\"kernels/a.h\"|caught"
    "stream/engine_uring.c|#include <liburing.h>|fine"
    "stream/ring.c|#include <liburing.h>|caught"
    "app/line.c|#include <histedit.h>|fine"
    "app/cmd_chat.c|#include <histedit.h>|caught"
    "kernels/cuda/gpu_nvcc.h|#include <cuda_runtime.h>|fine"
    "kernels/cuda/a.cu|#include <cuda_runtime.h>|caught"
    "kernels/cuda/c.cu|#include \"kernels/cuda/gpu.h\"|fine"
    "kernels/cuda/d.cu|#include \"kernels/cuda/sim/sim.h\"|caught"
    "kernels/cuda/gpu.h|#include \"kernels/cuda/sim/device.h\"|fine"
    "kernels/cuda/sim/a.cc|#include \"kernels/cuda/sim/sim.h\"|fine"
    "kernels/cuda/sim/b.cc|#include \"offload/a.h\"|caught"
    "kernels/cpu/b.c|#include \"kernels/cuda/gpu.h\"|caught"
    "model/d.c|#include \"kernels/cuda/gpu.h\"|caught"
    "tests/cuda/a.cc|#include \"kernels/cuda/sim/sim.h\"|fine"
    "kernels/cpu/a.c|#include <cuda_runtime.h>|caught"
    "kernels/cuda/b.cuh|#include \"model/a.h\"|caught"
    "offload/a.c|#include \"stream/ring.h\"|fine"
    "offload/b.c|#include \"model/a.h\"|caught"
    "model/a.c|#include \"offload/a.h\"|fine"
    "model/b.c|#include \"stream/ring.h\"|caught"
    "model/c.c|#include <jansson.h>|caught"
    "app/a.c|#include \"include/hlwq_stream.h\"|fine"
    "app/b.c|#include \"model/a.h\"|caught"
    "app/c.c|#include \"b.h\"|caught"
    "app/d.c|#include \"../model/a.h\"|caught"
    "app/e.c|#include <model/a.h>|caught"
    "include/a.h|#include \"base/a.h\"|caught"
    "tests/model/a.c|#include \"stream/ring.h\"|fine")
  foreach(case ${cases})
    string(REPLACE "|" ";" case "${case}")
    list(GET case 0 file)
    list(GET case 1 line)
    file(WRITE ${root}/${file} "${line}\n")
  endforeach()
  check_tree(${root} n violations)
  set(wrong 0)
  foreach(case ${cases})
    string(REPLACE "|" ";" case "${case}")
    list(GET case 0 file)
    list(GET case 2 wanted)
    set(got fine)
    foreach(v ${violations})
      string(FIND "${v}" "${file}: " at)
      if(at EQUAL 0)
        set(got caught)
      endif()
    endforeach()
    if(NOT got STREQUAL wanted)
      message(SEND_ERROR "${file}: wanted ${wanted}, got ${got}")
      set(wrong 1)
    endif()
  endforeach()
  list(LENGTH cases wanted_n)
  if(NOT n EQUAL wanted_n OR wrong)
    message(FATAL_ERROR "layering self-test: looked at ${n} lines of ${wanted_n}")
  endif()
  message(STATUS "layering self-test: ${n} cases")
endfunction()

if(SELF_TEST)
  self_test(${SELF_TEST})
else()
  check_tree(${ROOT} n violations)
  foreach(v ${violations})
    message(SEND_ERROR "${v}")
  endforeach()
  if(n EQUAL 0)
    message(FATAL_ERROR "no include lines under ${ROOT}")
  endif()
  message(STATUS "layering: ${n} include lines")
endif()
