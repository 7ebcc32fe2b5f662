// Sends to and receives from a queue of either family, in each way to wait.
#ifndef QUEUE_H
#define QUEUE_H

#include <fcntl.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#include "bench.h"

enum way { BLOCKING, EPOLL, SPINNING };

struct queue {
  int posix;
  enum way way;
  int id;  // or descriptor
  int epoll;
  size_t size;
  struct msgbuf* message;
};

static enum way way_of(const char* name) {
  return strcmp(name, "epoll") == 0      ? EPOLL
         : strcmp(name, "spinning") == 0 ? SPINNING
                                         : BLOCKING;
}

/** Opens an end of a queue that the benchmark has created. */
static struct queue open_queue(const char* family, const char* name,
                               enum way way, size_t size, uint32_t events) {
  struct queue queue = {
      .posix = strcmp(family, "posix") == 0, .way = way, .size = size};
  queue.message = malloc(sizeof(long) + size);
  queue.message->mtype = 1;
  fill(queue.message->mtext, size);
  if (queue.posix) {
    queue.id = mq_open(name, O_RDWR | (way == BLOCKING ? 0 : O_NONBLOCK));
    if (queue.id < 0) fail("mq_open");
  } else {
    queue.id = atoi(name);
  }
  if (way == EPOLL) {
    struct epoll_event event = {.events = events};
    queue.epoll = epoll_create1(0);
    if (epoll_ctl(queue.epoll, EPOLL_CTL_ADD, queue.id, &event) != 0)
      fail("epoll_ctl");
  }
  return queue;
}

static void close_queue(struct queue* queue) {
  if (queue->posix) mq_close(queue->id);
  if (queue->way == EPOLL) close(queue->epoll);
  free(queue->message);
}

static void wait_until_ready(const struct queue* queue) {
  struct epoll_event event;
  if (errno != EAGAIN && errno != ENOMSG) fail("queue");
  if (queue->way == EPOLL && epoll_wait(queue->epoll, &event, 1, -1) < 0)
    fail("epoll_wait");
}

static void send_message(struct queue* queue, struct maker* maker) {
  const int flags = queue->way == BLOCKING ? 0 : IPC_NOWAIT;
  make(maker, queue->message->mtext);
  while ((queue->posix
              ? mq_send(queue->id, queue->message->mtext, queue->size, 0)
              : msgsnd(queue->id, queue->message, queue->size, flags)) != 0)
    wait_until_ready(queue);
}

static void receive_message(struct queue* queue, struct checker* checker) {
  const int flags = queue->way == BLOCKING ? 0 : IPC_NOWAIT;
  ssize_t length;
  unsigned priority;
  while (
      (length =
           queue->posix
               ? mq_receive(queue->id, queue->message->mtext, queue->size,
                            &priority)
               : msgrcv(queue->id, queue->message, queue->size, 0, flags)) < 0)
    wait_until_ready(queue);
  check(checker, queue->message->mtext, length);
}

#endif
