# Installs the library, its headers under include/graft, and what find_package(graft) and pkg-config need to find them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS graft EXPORT graft)

# The headers of a room's folder are public; those in folders below it (cpu/, …) are the library's own.
foreach(room ${GRAFT_ROOMS})
  file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${room}/*.h)
  install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/graft/${room})
endforeach()

if(NOT DEFINED BUILD_SHARED_LIBS)
  set(BUILD_SHARED_LIBS OFF)
endif()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/graft)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/graft-config.cmake.in graft-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(graft-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/graft-config.cmake ${PROJECT_BINARY_DIR}/graft-config-version.cmake DESTINATION ${package_dir})
install(EXPORT graft NAMESPACE graft:: FILE graft-targets.cmake DESTINATION ${package_dir})

file(RELATIVE_PATH GRAFT_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)  # an installed tree can be moved
if(GRAFT_CUDA_FOUND)
  set(GRAFT_PC_CUDA " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/graft.pc.in graft.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/graft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
