// SPDX-License-Identifier: GPL-2.0
// An intrusive, doubly linked list, like the kernel's list_head.
//
//	class Job : public ferry::Linked<Job> { ... };
//	ferry::List<Job> jobs;
//
// The list does not own its members. A member is in one list of a tag at a
// time, and must have left it before it is destroyed.
#pragma once

namespace ferry {

template <class T, class Tag> class List;

template <class T, class Tag = T> class Linked {
    public:
	Linked() = default;
	Linked(const Linked &) = delete;
	Linked &operator=(const Linked &) = delete;

	bool linked() const
	{
		return next_ != nullptr;
	}

    protected:
	~Linked()
	{
		if (linked())
			__builtin_trap();
	}

    private:
	friend class List<T, Tag>;
	Linked *next_ = nullptr;
	Linked *prev_ = nullptr;
};

template <class T, class Tag = T> class List {
	using Node = Linked<T, Tag>;

	struct Head : Node {
		~Head()
		{
			this->next_ = nullptr;
		}
	};

    public:
	class Iterator {
	    public:
		explicit Iterator(Node *at) : at_{at}
		{
		}
		T &operator*() const
		{
			return *static_cast<T *>(at_);
		}
		T *operator->() const
		{
			return static_cast<T *>(at_);
		}
		Iterator &operator++()
		{
			at_ = at_->next_;
			return *this;
		}
		Iterator &operator--()
		{
			at_ = at_->prev_;
			return *this;
		}
		bool operator==(const Iterator &) const = default;

	    private:
		Node *at_;
	};

	List()
	{
		head_.next_ = head_.prev_ = &head_;
	}
	~List()
	{
		if (!empty())
			__builtin_trap();
	}
	List(const List &) = delete;
	List &operator=(const List &) = delete;

	bool empty() const
	{
		return head_.next_ == &head_;
	}
	Iterator begin()
	{
		return Iterator{head_.next_};
	}
	Iterator end()
	{
		return Iterator{&head_};
	}
	// Null when the list is empty.
	T *front()
	{
		return empty() ? nullptr : static_cast<T *>(head_.next_);
	}
	T *back()
	{
		return empty() ? nullptr : static_cast<T *>(head_.prev_);
	}

	void push_back(T &object)
	{
		insert(&head_, &object);
	}
	void push_front(T &object)
	{
		insert(head_.next_, &object);
	}
	static void remove(T &object)
	{
		Node *node = &object;
		node->prev_->next_ = node->next_;
		node->next_->prev_ = node->prev_;
		node->next_ = node->prev_ = nullptr;
	}

    private:
	static void insert(Node *before, Node *node)
	{
		if (node->linked())
			__builtin_trap();
		node->next_ = before;
		node->prev_ = before->prev_;
		before->prev_->next_ = node;
		before->prev_ = node;
	}

	Head head_;
};

} // namespace ferry
