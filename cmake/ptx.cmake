# hs_ptx(source): what nvcc makes of its kernels, as the release preset has it, for the simulator (docs/testing.md).
# The target hs_ptx makes all of them.  Without nvcc, or without kernels in the file, nothing.
function(hs_ptx source)
  file(STRINGS ${source} kernels REGEX "__global__" LIMIT_COUNT 1)
  if(NOT HLWQ_NVCC OR NOT kernels)
    return()
  endif()
  get_filename_component(name ${source} NAME_WE)
  if(NOT TARGET hs_ptx)
    add_custom_target(hs_ptx ALL)
  endif()
  foreach(arch ${HLWQ_PTX_ARCHITECTURES})
    set(ptx ${PROJECT_BINARY_DIR}/ptx/${arch}/${name}.ptx)
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/ptx/${arch})
    add_custom_command(OUTPUT ${ptx}
      COMMAND ${HLWQ_NVCC} -x cu -std=c++17 -O3 -DNDEBUG ${cuda_device_flags} -lineinfo -arch=compute_${arch}
        -I${PROJECT_SOURCE_DIR} -MD -MF ${ptx}.d -MT ${ptx} -ptx ${source} -o ${ptx}
      DEPENDS ${source} DEPFILE ${ptx}.d COMMENT "PTX of ${name} for sm_${arch}" VERBATIM)
    add_custom_target(hs_ptx_${name}_${arch} DEPENDS ${ptx})
    add_dependencies(hs_ptx hs_ptx_${name}_${arch})
  endforeach()
endfunction()
