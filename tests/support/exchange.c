/* Exchanges as those of a fleet of up to 16 worker ranks: an order to every rank, and its answer. For SimGrid's SMPI.
 *
 * exchange DOWN UP TIMES prints the seconds of an exchange with DOWN and UP bytes, the mean of so many. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words)
{
    MPI_Init(&count, &words);
    const int down = atoi(words[1]), up = atoi(words[2]), times = atoi(words[3]), frame = 1 << 14, head = 200;
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    char *order = calloc(down + 1, 1), *answers = calloc((size_t)(up + 1) * ranks, 1);
    MPI_Request *requests = malloc(2 * ranks * sizeof *requests);
    const double start = MPI_Wtime();
    for (int k = 0; k < times; k++) {
        const int size = down > frame ? head : down;
        if (rank == 0) {
            for (int r = 1; r < ranks; r++) {
                MPI_Isend(order, size, MPI_BYTE, r, 0, MPI_COMM_WORLD, &requests[2 * r - 2]);
                MPI_Irecv(answers + (size_t)up * r, up, MPI_BYTE, r, 1, MPI_COMM_WORLD, &requests[2 * r - 1]);
            }
        } else {
            MPI_Recv(order, size, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
        if (down > frame)
            MPI_Bcast(order, down, MPI_BYTE, 0, MPI_COMM_WORLD);
        if (rank == 0)
            MPI_Waitall(2 * ranks - 2, requests, MPI_STATUSES_IGNORE);
        else
            MPI_Send(answers, up, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
    }
    if (rank == 0)
        printf("%.9f\n", (MPI_Wtime() - start) / times);
    MPI_Finalize();
    return 0;
}
