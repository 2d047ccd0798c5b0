-- Lmod module: copy to MODULEPATH as mpinewton/0.1.0.lua, and set root to a virtual environment with mpinewton in it:
--   module load openmpi && python3 -m venv ROOT && ROOT/bin/pip install mpinewton
help([[Second-order distributed optimisation over MPI. `mpinewton --help` and `mpinewton doctor` tell more.]])
whatis("Name: mpinewton")
whatis("Version: 0.1.0")
whatis("Description: second-order distributed optimisation over MPI")

local root = "/opt/mpinewton/0.1.0"

depends_on("openmpi") -- the MPI library that mpi4py finds: any of the site's will do
prepend_path("PATH", pathJoin(root, "bin"))
